"""The run: what was studied, when, with which code, how many steps and LLM calls it took."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from harness.contract.cells import Cell, count, duration, text
from harness.contract.report import Column, Report
from harness.errors import masked_url
from harness.reports.common.rows import row_from, run_steps
from harness.reports.steps import steps
from harness.store.schema import LLMCall, StudyRun


@dataclass(frozen=True)
class OverviewRow:
    """One run. `wall_s` is the sum over its steps and their attempts, those of earlier runs included."""

    run_id: int
    study: str
    preset: str | None
    seed: int
    model: str | None
    device: str | None
    status: str
    reason: str | None
    started_at: str
    finished_at: str | None
    wall_s: float | None
    n_steps: int
    n_steps_done: int
    n_steps_reused: int
    n_llm_calls: int
    n_llm_calls_failed: int
    llm_input_tokens: int | None
    llm_output_tokens: int | None
    git_sha: str | None
    git_dirty: bool | None
    versions: str
    argv: str


def overview(connection: Connection, run_id: int) -> list[OverviewRow]:
    """The run, its steps counted, its LLM calls added up."""
    run = connection.execute(select(StudyRun.__table__).where(StudyRun.id == run_id)).one()
    rows = steps(connection, run_id)
    walls = [r.wall_s for r in rows if r.wall_s is not None]
    calls = connection.execute(
        select(
            func.count(),
            func.count().filter(LLMCall.status == "failed"),
            func.sum(LLMCall.input_tokens),
            func.sum(LLMCall.output_tokens),
        ).where(LLMCall.step_id.in_(run_steps(run_id)))
    ).one()
    return [
        row_from(
            OverviewRow,
            run,
            run_id=run.id,
            reason=run.reason or ("still running, or killed" if run.status == "running" else None),
            wall_s=sum(walls) if walls else None,
            n_steps=len(rows),
            n_steps_done=sum(r.status == "done" for r in rows),
            n_steps_reused=sum(r.reused for r in rows),
            n_llm_calls=calls[0],
            n_llm_calls_failed=calls[1],
            llm_input_tokens=calls[2],
            llm_output_tokens=calls[3],
            argv=masked_url(run.argv),  # databases of earlier versions hold it as it was typed
            versions=", ".join(f"{name} {version}" for name, version in run.versions_json.items()),
        )
    ]


def _commit(row: OverviewRow) -> Cell:
    return (text(row.git_sha and row.git_sha[:10]), *(["dirty"] if row.git_dirty else []))


REPORT = Report[OverviewRow](
    "overview",
    "Run",
    overview,
    (
        Column("run", lambda r: text(r.run_id)),
        Column("study", lambda r: (r.study, f"preset {text(r.preset)}", f"seed {r.seed}"), "left"),
        Column("status", lambda r: r.status, "left"),
        Column("started (UTC)", lambda r: tuple(r.started_at[:19].split("T")), "left"),
        Column("steps took", lambda r: duration(r.wall_s)),
        Column("steps", lambda r: (f"{r.n_steps_done} of {r.n_steps} done", f"{r.n_steps_reused} reused"), "left"),
        Column("LLM calls", lambda r: (count(r.n_llm_calls), f"{count(r.n_llm_calls_failed)} failed"), leaves=2),
        Column(
            "LLM tokens", lambda r: (f"{count(r.llm_input_tokens)} in", f"{count(r.llm_output_tokens)} out"), leaves=1
        ),
        Column("commit", _commit, "left", leaves=3),
    ),
    order=10,
    label=lambda r: f"run {r.run_id}",
    after=("steps",),
)
