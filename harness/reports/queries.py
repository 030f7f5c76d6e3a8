"""Every SELECT of the reports. Rows are frozen, flat, with stable keys and units in their names.

All functions take an open connection and a run's id (`resolve_run`). A number that does not exist is None, with a
`reason`; a number that exists but should be read with care has a `note`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from harness.errors import ResultsError
from harness.reports.query_ablations import ComponentRow, components
from harness.reports.query_answers import GenerationRow, GraderRow, generations, grader
from harness.reports.query_benchmarks import GroupRow, RecoveryRow, groups, recovery
from harness.reports.query_captures import CaptureRow, captures
from harness.reports.query_common import once
from harness.reports.query_densities import DensityRow, densities
from harness.reports.query_dictionaries import (
    DictionaryRow,
    FittedRow,
    LatentRow,
    dictionaries,
    fitted_dictionaries,
    latents,
)
from harness.reports.query_enriched import top_enrichment
from harness.reports.query_features import CategoryRow, FeatureRow, categories, features
from harness.reports.query_grades import GradeRow, GradeTestRow, grade_tests, grades
from harness.reports.query_judgements import EnrichmentRow, JudgeRow, ScoreRow, enrichment, judge, scores
from harness.reports.query_paper import PaperRow, paper_card
from harness.reports.query_sweep import SearchRow, SweepRow, TotalRow, searches, sweeps, totals
from harness.reports.query_top import TopFeatureRow, top_features
from harness.reports.query_training import KNOWN, ConfusionRow, TrainingRow, confusion, training
from harness.store.schema import LLMCall, RunStep, Step, StudyRun


@dataclass(frozen=True)
class OverviewRow:
    """One run."""

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


@dataclass(frozen=True)
class StepRow:
    """One step of a run, in order."""

    position: int
    step: str
    stage: str
    plugin: str | None
    plugin_version: str | None
    status: str
    reused: bool
    wall_s: float | None
    seed: int
    device: str | None
    git_sha: str | None
    key: str
    artifact: str | None
    reason: str | None


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
    known = ", ".join(map(str, ids[-5:]))
    raise ResultsError(f"no run {str(run)!r}; the last ones are {known} (or: latest)")


def overview(connection: Connection, run_id: int) -> list[OverviewRow]:
    """The run, its steps counted, its LLM calls added up."""
    run = connection.execute(select(StudyRun.__table__).where(StudyRun.id == run_id)).one()
    rows = steps(connection, run_id)
    own = select(RunStep.step_id).where(RunStep.run_id == run_id)
    calls = connection.execute(
        select(
            func.count(),
            func.count().filter(LLMCall.status == "failed"),
            func.sum(LLMCall.input_tokens),
            func.sum(LLMCall.output_tokens),
        ).where(LLMCall.step_id.in_(own))
    ).one()
    return [
        OverviewRow(
            run_id=run.id,
            study=run.study,
            preset=run.preset,
            seed=run.seed,
            model=run.model,
            device=run.device,
            status=run.status,
            reason=run.reason or ("still running, or killed" if run.status == "running" else None),
            started_at=run.started_at,
            finished_at=run.finished_at,
            wall_s=_seconds(run.started_at, run.finished_at),
            n_steps=len(rows),
            n_steps_done=sum(r.status == "done" for r in rows),
            n_steps_reused=sum(r.reused for r in rows),
            n_llm_calls=calls[0],
            n_llm_calls_failed=calls[1],
            llm_input_tokens=calls[2],
            llm_output_tokens=calls[3],
            git_sha=run.git_sha,
            git_dirty=run.git_dirty,
            versions=", ".join(f"{name} {version}" for name, version in run.versions_json.items()),
            argv=run.argv,
        )
    ]


@once
def steps(connection: Connection, run_id: int) -> list[StepRow]:
    """The run's steps in order."""
    found = connection.execute(
        select(Step.__table__, RunStep.position, RunStep.reused)
        .join(RunStep, RunStep.step_id == Step.id)
        .where(RunStep.run_id == run_id)
        .order_by(RunStep.position)
    )
    return [
        StepRow(
            position=s.position,
            step=s.name,
            stage=s.stage,
            plugin=s.plugin,
            plugin_version=s.plugin_version,
            status=s.status,
            reused=s.reused,
            wall_s=s.wall_s,
            seed=s.seed,
            device=s.device,
            git_sha=s.git_sha,
            key=s.key,
            artifact=s.artifact,
            reason=s.reason,
        )
        for s in found
    ]


def why_empty(connection: Connection, run_id: int, stages: tuple[str, ...], what: str) -> str:
    """Why a run has no rows of some kind, as a sentence.

    Args:
        connection: to the database.
        run_id: the run.
        stages: kinds of step that make such rows.
        what: what is missing, plural, e.g. `dictionaries`.
    """
    start = f"no {what} in run {run_id}: "
    own = [s for s in steps(connection, run_id) if s.stage in stages]
    unfinished = [s for s in own if s.status != "done"]
    if unfinished:
        s = unfinished[0]
        return f"{start}{s.step} is {s.status}" + (f" ({s.reason})" if s.reason else "")
    if own:
        return f"{start}{', '.join(s.step for s in own)} stored none"
    run = connection.execute(select(StudyRun.status, StudyRun.reason).where(StudyRun.id == run_id)).one()
    if run.status != "done":
        return f"{start}the run is {run.status} and did not get there" + (f" ({run.reason})" if run.reason else "")
    return f"{start}it has no step of that kind ({', '.join(stages)})"


def _seconds(start: str, end: str | None) -> float | None:
    if end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


__all__ = [
    "KNOWN",
    "CaptureRow",
    "CategoryRow",
    "ComponentRow",
    "ConfusionRow",
    "DensityRow",
    "DictionaryRow",
    "EnrichmentRow",
    "FeatureRow",
    "FittedRow",
    "GenerationRow",
    "GradeRow",
    "GradeTestRow",
    "GraderRow",
    "GroupRow",
    "JudgeRow",
    "LatentRow",
    "OverviewRow",
    "PaperRow",
    "RecoveryRow",
    "ScoreRow",
    "SearchRow",
    "StepRow",
    "SweepRow",
    "TopFeatureRow",
    "TotalRow",
    "TrainingRow",
    "captures",
    "categories",
    "components",
    "confusion",
    "densities",
    "dictionaries",
    "enrichment",
    "features",
    "fitted_dictionaries",
    "generations",
    "grade_tests",
    "grader",
    "grades",
    "groups",
    "judge",
    "latents",
    "overview",
    "paper_card",
    "recovery",
    "resolve_run",
    "scores",
    "searches",
    "steps",
    "sweeps",
    "top_enrichment",
    "top_features",
    "totals",
    "training",
    "why_empty",
]
