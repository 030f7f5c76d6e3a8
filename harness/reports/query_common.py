"""What the queries share: a run's steps, finite bounds, the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, select

from harness import stats
from harness.store.schema import PaperClaim, RunStep, StudyRun

T = TypeVar("T")

_ANSWERS: ContextVar[dict[tuple[Any, ...], Any] | None] = ContextVar("answers", default=None)


@contextmanager
def one_report() -> Iterator[None]:
    """Within it a query marked `once` is asked once per run: the sections of a report share many of them."""
    token = _ANSWERS.set({})
    try:
        yield
    finally:
        _ANSWERS.reset(token)


def once(query: Callable[[Connection, int], T]) -> Callable[[Connection, int], T]:
    """Mark a query whose rows several sections use; they must not change them. It answers anew outside `one_report`."""

    @wraps(query)
    def asked(connection: Connection, run_id: int) -> T:
        answers = _ANSWERS.get()
        if answers is None:
            return query(connection, run_id)
        key = (query.__module__, query.__qualname__, id(connection), run_id)
        if key not in answers:
            answers[key] = query(connection, run_id)
        found: T = answers[key]
        return found

    return asked


def own_steps(run_id: int) -> Select[Any]:
    """Ids of the run's steps, as a subquery."""
    return select(RunStep.step_id).where(RunStep.run_id == run_id)


def plan_order(run_id: int, table: Any) -> tuple[Any, Any]:
    """Records in the order of the plan's steps: two processes store them as they are done. To order by."""
    of_step = RunStep.run_id == run_id, RunStep.step_id == table.step_id
    return select(RunStep.position).where(*of_step).scalar_subquery(), table.id


def finite(value: float | None) -> float | None:
    """The value; None for an unbounded or missing one (JSON and LaTeX have no infinity)."""
    return value if value is not None and math.isfinite(value) else None


def claims(connection: Connection) -> dict[tuple[str, str], float]:
    """(quantity, subject) -> the paper's number."""
    rows = connection.execute(select(PaperClaim.quantity, PaperClaim.subject, PaperClaim.value))
    return {(r.quantity, r.subject): r.value for r in rows}


def paper_names(connection: Connection, run_id: int) -> dict[str, str]:
    """Our benchmark -> the paper's, as the run's study says."""
    return dict(connection.execute(select(StudyRun.paper_names_json).where(StudyRun.id == run_id)).scalar_one())


def mean_score(scores: Sequence[float]) -> stats.Estimate:
    """Mean score with a 95 % interval: Wilson for right and wrong, bootstrap over items for averages of repeats."""
    if all(s in (0.0, 1.0) for s in scores):
        return stats.share(int(sum(scores)), len(scores))
    return stats.ratio_over_documents(scores, [1.0] * len(scores))


def interval_values(name: str, found: stats.Estimate | None, estimate_name: str | None = None) -> dict[str, Any]:
    """A row's fields of an estimate and its interval: NAME, NAME_ci_low and NAME_ci_high; None where there is none."""
    return {
        estimate_name or name: found.value if found else None,
        f"{name}_ci_low": finite(found.low) if found else None,
        f"{name}_ci_high": finite(found.high) if found else None,
    }
