"""Opening stored results, which run is meant, and why it has no rows of some kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, select

from harness.errors import ResultsError
from harness.reports.common.rows import one_report
from harness.reports.steps import steps
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


def why_empty(connection: Connection, run_id: int, kinds: tuple[str, ...], noun: str) -> str:
    """Why a run has no rows of some kind, as a sentence.

    Args:
        connection: to the database.
        run_id: the run.
        kinds: kinds of step that make such rows.
        noun: what is missing, plural, e.g. `dictionaries`.
    """
    start = f"no {noun} in run {run_id}: "
    makers = [s for s in steps(connection, run_id) if s.kind in kinds]
    unfinished = next((s for s in makers if s.status != "done"), None)
    if unfinished:
        reason = f" ({unfinished.reason})" if unfinished.reason else ""
        return f"{start}{unfinished.step} is {unfinished.status}{reason}"
    if makers:
        return f"{start}{', '.join(s.step for s in makers)} stored none"
    run = connection.execute(select(StudyRun.status, StudyRun.reason).where(StudyRun.id == run_id)).one()
    if run.status != "done":
        return f"{start}the run is {run.status} and did not get there" + (f" ({run.reason})" if run.reason else "")
    return f"{start}it has no step of that kind ({', '.join(kinds)})"
