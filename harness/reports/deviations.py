"""The deviation ledger: every way in which a run was done otherwise than the paper's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.contract.cells import text
from harness.contract.report import Block, Column, Report
from harness.paper.claims import Setting, paper
from harness.reports.common.ablations import ablation_scores
from harness.reports.common.rows import run_steps
from harness.reports.common.run import of_papers_model
from harness.store.schema import Checkpoint, LLMCall, RunStep, Step, StudyRun

SAME, DIFFERS, UNKNOWN = "as in the paper", "differs", "cannot be known"

ABSENT = "none in this run"


@dataclass(frozen=True)
class DeviationRow:
    """One way in which the paper's run was done, and how this run was; `place` says where the paper's is from.

    `status` is `as in the paper`, `differs` or `cannot be known`, the last with a `reason`.
    """

    what: str
    place: str
    paper: str | None
    this_run: str | None
    status: str
    reason: str | None


def deviations(connection: Connection, run_id: int) -> list[DeviationRow]:
    """Everything that is declared of the paper's run beside this run's own stored settings."""
    stored = _stored(connection, run_id)
    return [_row(setting, stored) for setting in paper().setup]


def _row(setting: Setting, stored: Mapping[str, Any]) -> DeviationRow:
    found, reason = setting.always, None
    if found is None:
        found, reason = _value(setting, stored)
    if setting.paper is None:
        status, reason = UNKNOWN, "the paper does not say"
    elif reason is not None:
        status = UNKNOWN
    else:
        status = SAME if _plain(found) == _plain(setting.paper) else DIFFERS
    return DeviationRow(setting.what, setting.place, _words(setting.paper), _words(found), status, reason)


def _value(setting: Setting, stored: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The value of this run, and why it cannot be known."""
    for path in setting.stored:
        *owners, key = path.split(".")
        owner: Any = stored
        for name in owners:
            owner = owner.get(name) or {}
        if key in owner:
            value = setting.null_is if owner[key] is None else owner[key]
            return value, "left to a default that is not stored" if value is None else None
    if owners[0] == "settings" and not stored["settings"]:
        return None, "the run did not store its settings"
    if owner and owners != ["llm"]:
        return None, "its step has no such setting"
    return ABSENT, None


def _stored(connection: Connection, run_id: int) -> dict[str, Any]:
    """What the run stored of how it was done, by the first part of the paths of `setup.yaml`."""
    run = connection.execute(select(StudyRun.__table__).where(StudyRun.id == run_id)).one()
    steps = connection.execute(
        select(Step.id, Step.kind, Step.plugin, Step.config_json)
        .join(RunStep, RunStep.step_id == Step.id)
        .where(RunStep.run_id == run_id)
        .order_by(RunStep.position.desc())
    ).all()
    trained = connection.execute(select(Checkpoint.__table__).where(Checkpoint.step_id.in_(run_steps(run_id)))).all()
    config_of = {s.id: s.config_json for s in steps}
    calls = select(LLMCall.role, LLMCall.model).where(LLMCall.step_id.in_(run_steps(run_id))).distinct()
    asked: dict[str, list[str]] = {}
    for role, model in connection.execute(calls.order_by(LLMCall.role, LLMCall.model)):
        asked.setdefault(role, []).append(model)
    singles = ablation_scores(connection, run_id, ("component",))
    return {
        "run": run._mapping,
        "settings": run.settings_json,
        "checkpoint": {c.kind: c._mapping for c in trained},
        "trainer": {c.kind: config_of[c.step_id] for c in trained},
        "evaluate": next((s.config_json for s in steps if s.kind == "evaluate"), {}),
        "plugin": {s.plugin: s.config_json for s in steps if s.plugin},
        "llm": asked,
        "kl": singles[0]._mapping if singles else {},
    }


_DATED = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")
"""The date of an LLM's version."""


def _plain(value: Any) -> Any:
    """A value as it is compared: lists as sets, names without folder, date and case."""
    if isinstance(value, list | tuple):
        plain = frozenset(map(_plain, value))
        return next(iter(plain)) if len(plain) == 1 else plain
    if isinstance(value, str):
        return _DATED.sub("", value.rstrip("/").rsplit("/", 1)[-1].lower())
    return value


def _words(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else None if value is None else str(value)


def _blocks(rows: Sequence[DeviationRow]) -> list[Block[DeviationRow]]:
    statuses = [r.status for r in rows]
    titled = [(DIFFERS, "Otherwise than in the paper"), (UNKNOWN, "What cannot be known")]
    blocks = [
        Block(f"{title}: {statuses.count(status)} of {len(rows)}", [r for r in rows if r.status == status])
        for status, title in titled
    ]
    return [block for block in blocks if block.rows]


REPORT = Report[DeviationRow](
    "deviations",
    "How this run differs from the paper's",
    deviations,
    (
        Column("what", lambda r: r.what, "left", wrap=True, ratio=1),
        Column("where", lambda r: r.place, "left", wrap=True, leaves=1),
        Column("paper", lambda r: text(r.paper), "left", wrap=True, ratio=1),
        Column("this run", lambda r: text(r.this_run), "left", wrap=True, ratio=1),
    ),
    ("evaluate", "train", "probe", "learn", "interpret", "ablate"),
    "settings",
    order=222,
    label=lambda r: r.what,
    legend=(
        "Settings as they are stored with the run; those that are as in the paper are in JSON and CSV. Where the "
        "paper's text is silent, the value is its released code's."
    ),
    blocks=_blocks,
    unasked=of_papers_model,
)
