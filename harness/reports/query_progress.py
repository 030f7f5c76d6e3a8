"""How far a run is that another process may still be writing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from harness.store.schema import RECORDS, Columns, LLMCall, RunStep, Step


@dataclass(frozen=True)
class ProgressRow:
    """One step of a run: what it stored so far. `price_usd` is null where no call has a known price."""

    position: int
    step: str
    status: str
    reused: bool
    n_stored: int
    wall_s: float | None
    n_llm_calls: int
    price_usd: float | None
    reason: str | None


def progress(connection: Connection, run_id: int) -> list[ProgressRow]:
    """The run's steps so far, in order. Wall time of a running step is counted until now."""
    steps = connection.execute(
        select(
            Step.id, Step.name, Step.status, Step.wall_s, Step.reason, Step.started_at, RunStep.position, RunStep.reused
        )
        .join(RunStep, RunStep.step_id == Step.id)
        .where(RunStep.run_id == run_id)
        .order_by(RunStep.position)
    ).all()
    calls = connection.execute(
        select(LLMCall.step_id, func.count().label("n"), func.sum(LLMCall.price_usd).label("price"))
        .where(LLMCall.step_id.in_([s.id for s in steps]))
        .group_by(LLMCall.step_id)
    ).all()
    by_step = {c.step_id: c for c in calls}
    rows = []
    for s in steps:
        call = by_step.get(s.id)
        rows.append(
            ProgressRow(
                position=s.position,
                step=s.name,
                status=s.status,
                reused=s.reused,
                n_stored=sum(_count(connection, table, s.id) for table in RECORDS),
                wall_s=_since(s.started_at) if s.status == "running" else s.wall_s,
                n_llm_calls=call.n if call else 0,
                price_usd=call.price if call else None,
                reason=s.reason,
            )
        )
    return rows


def _count(connection: Connection, table: Columns, step_id: int) -> int:
    counted = select(func.count()).select_from(table).where(table.step_id == step_id)
    return int(connection.execute(counted).scalar_one())


def _since(started_at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds()
