"""The steps of a run, in order."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from harness.contract.cells import duration, percent, text
from harness.contract.report import Column, Report
from harness.reports.common.rows import cached_query, row_from
from harness.store.schema import Checkpoint, RunStep, Step


@dataclass(frozen=True)
class StepRow:
    """One step of a run, in order."""

    position: int
    step: str
    stage: str
    kind: str
    plugin: str | None
    plugin_version: str | None
    status: str
    reused: bool
    wall_s: float | None
    seed: int
    kept_token_share: float | None
    device: str | None
    git_sha: str | None
    key: str
    artifact: str | None
    reason: str | None


@cached_query
def steps(connection: Connection, run_id: int) -> list[StepRow]:
    """The run's steps in order."""
    of_run = (
        select(Step.__table__, Step.name.label("step"), RunStep.position, RunStep.reused, Checkpoint.kept_token_share)
        .join(RunStep, RunStep.step_id == Step.id)
        .outerjoin(Checkpoint, Checkpoint.step_id == Step.id)
    )
    rows = connection.execute(of_run.where(RunStep.run_id == run_id).order_by(RunStep.position))
    return [row_from(StepRow, row) for row in rows]


def _status(row: StepRow) -> str:
    status = "reused" if row.reused and row.status == "done" else row.status
    cut = row.kept_token_share is not None and row.kept_token_share < 1
    return f"{status} (data.cut kept {percent(row.kept_token_share)} of the tokens)" if cut else status


REPORT = Report[StepRow](
    "steps",
    "Steps",
    steps,
    (
        Column("#", lambda r: text(r.position + 1)),
        Column("step", lambda r: r.step, "left", wrap=True),
        Column("plugin", lambda r: text(r.plugin), "left"),
        Column("status", _status, "left", wrap=True),
        Column("wall", lambda r: duration(r.wall_s)),
        Column("device", lambda r: text(r.device), "left", leaves=2),
        Column("commit", lambda r: text(r.git_sha and r.git_sha[:7]), "left", leaves=1),
    ),
    noun="steps",
    order=20,
    label=lambda r: r.step,
)
