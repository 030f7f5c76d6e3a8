"""Opening stored results, and which run is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, select

from harness.errors import ResultsError
from harness.paper.claims import paper
from harness.reports.common.rows import one_report
from harness.store.database import open_database, translate_db_errors
from harness.store.schema import StudyRun


@contextmanager
def open_results(db: str | Path) -> Iterator[Connection]:
    """A connection to stored results for one report; a query that several parts of it need is asked once.

    Args:
        db: path or URL of the database; it is not created.

    Raises:
        ResultsError: no such database, or one that cannot be read.
    """
    engine = open_database(db, create=False)
    try:
        with translate_db_errors(str(db)), engine.connect() as connection, one_report():
            yield connection
    finally:
        engine.dispose()


def resolve_run(connection: Connection, run: str | int) -> int:
    """The id of a run given as `latest` or a number.

    Raises:
        ResultsError: no run is stored, or none of that id.
    """
    ids = list(connection.execute(select(StudyRun.id).order_by(StudyRun.id)).scalars())
    if not ids:
        raise ResultsError("no run is stored here yet; start one: harness run --plugin rank1-lora")
    if str(run) == "latest":
        return ids[-1]
    if str(run).isdecimal() and int(run) in ids:
        return int(run)
    last = ", ".join(map(str, ids[-5:]))
    raise ResultsError(f"no run {str(run)!r}; the last ones are {last} (or: latest)")


def of_papers_model(connection: Connection, run_id: int) -> bool:
    """Whether the run is of the paper's model: of another, the paper's claims are shown by name only."""
    model = connection.execute(select(StudyRun.model).where(StudyRun.id == run_id)).scalar_one()
    return paper().is_model(model)
