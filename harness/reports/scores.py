"""How well explanations predict held-out contexts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select

from harness.contract.cells import count, inline
from harness.contract.report import Block, Column, Report
from harness.interpretation import agreement
from harness.records.base import Estimate
from harness.reports.common.controls import LEGEND, above_cell, beside_controls, controls
from harness.reports.common.features import FeatureName, stored_features
from harness.reports.common.rows import run_steps
from harness.store.schema import ExplanationScore


@dataclass(frozen=True)
class ScoreRow:
    """One kind of scoring test of a source's explanations: means over features, 95 % intervals clustered by layer.

    `n_quietest`: features too dense for quiet contexts, tested on their quietest. `chance`: what guessing gives, of the
    balanced accuracy or, in simulations, of the correlation.
    `above_control`: the score (balanced accuracy, or correlation) less that of `control`; of outputs, a random
    direction.
    """

    source: str
    interpreter: str
    kind: str
    n_features: int
    n_scored: int
    n_contexts: int
    n_hard: int
    n_quietest: int
    n_unanswered: int
    balanced_accuracy: Estimate | None
    chance: float
    auc: Estimate | None
    correlation: Estimate | None
    reason: str | None
    lost: tuple[str, ...] = ()
    control: str | None = None
    above_control: Estimate | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """The parts of the reason, so that what is true of several kinds of test is told once."""
        return self.lost


def scores(connection: Connection, run_id: int) -> list[ScoreRow]:
    """Scores per source and kind of test."""
    s = ExplanationScore
    columns = (s.source, s.feature, s.interpreter, s.kind, s.n_positive, s.n_negative, s.n_hard, s.n_unanswered,
               s.n_not_quiet, s.balanced_accuracy, s.auc, s.correlation, s.reason)  # fmt: skip
    stored = connection.execute(select(*columns).where(s.step_id.in_(run_steps(run_id))).order_by(s.id))
    newest = {(r.source, r.interpreter, r.kind, r.feature): r for r in stored}
    groups: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for r in newest.values():
        groups[r.source, r.interpreter, r.kind].append(r)
    layers = {name: f.layer for name, f in stored_features(connection, run_id).items()}
    sources = list(dict.fromkeys(source for source, _, _ in groups))  # outputs are scored last
    rows = [_row(*name, group, layers) for name, group in sorted(groups.items(), key=lambda g: sources.index(g[0][0]))]
    compared = beside_controls(
        rows,
        controls(connection, run_id),
        same=lambda r: (r.interpreter, r.kind),
        number=lambda r: r.correlation if r.kind == "simulation" else r.balanced_accuracy,
    )
    return [_beside_random(r, groups, layers) if r.kind == "output" else r for r in compared]


def _beside_random(
    row: ScoreRow, groups: dict[tuple[str, str, str], list[Any]], layers: dict[FeatureName, int | None]
) -> ScoreRow:
    """An output score above that of random directions, feature by feature."""
    random = {r.feature: r.balanced_accuracy for r in groups[row.source, row.interpreter, "output-random"]}
    pairs = [(r, random.get(r.feature)) for r in groups[row.source, row.interpreter, "output"]]
    known = [(r, r.balanced_accuracy - x) for r, x in pairs if x is not None and r.balanced_accuracy is not None]
    above = agreement.clustered_mean([d for _, d in known], _clusters([r for r, _ in known], layers)) if known else None
    return replace(row, control="a random direction", above_control=above)


def _clusters(group: Sequence[Any], layers: dict[FeatureName, int | None]) -> list[str | int]:
    """The features' layers; one without a layer is a cluster of its own."""
    return [r.feature if (layer := layers.get((r.source, r.feature))) is None else layer for r in group]


@dataclass(frozen=True)
class DetectionRow:
    """Mean balanced accuracy of a source's explanations in detection beside its control's."""

    source: str
    interpreter: str
    balanced_accuracy: Estimate | None
    control: str | None = None
    above_control: Estimate | None = None


def detection(connection: Connection, run_id: int) -> list[DetectionRow]:
    """Of each source and interpreter, without what the whole report has beside it."""
    s = ExplanationScore
    columns = (s.source, s.feature, s.interpreter, s.balanced_accuracy)
    of_run = (s.step_id.in_(run_steps(run_id)), s.kind == "detection")
    newest = {r[:3]: r for r in connection.execute(select(*columns).where(*of_run).order_by(s.id))}
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for r in newest.values():
        groups[r.source, r.interpreter].append(r)
    layers = {name: f.layer for name, f in stored_features(connection, run_id).items()}
    return beside_controls(
        [DetectionRow(*name, _mean(group, "balanced_accuracy", layers)) for name, group in groups.items()],
        controls(connection, run_id),
        same=lambda r: r.interpreter,
        number=lambda r: r.balanced_accuracy,
    )


def _row(
    source: str, interpreter: str, kind: str, group: Sequence[Any], layers: dict[FeatureName, int | None]
) -> ScoreRow:
    main = "correlation" if kind == "simulation" else "balanced_accuracy"
    counts = Counter(r.reason for r in group if getattr(r, main) is None)
    lost = tuple(f"{n} of {len(group)} features not scored: {why}" for why, n in counts.most_common(3))
    is_choice = kind == "intruder"  # one choice per test, where the others have one answer per context
    return ScoreRow(
        source=source,
        interpreter=interpreter,
        kind=kind,
        n_features=len(group),
        n_scored=sum(getattr(r, main) is not None for r in group),
        n_contexts=sum(r.n_positive + (0 if is_choice else r.n_negative) for r in group),
        n_hard=sum(r.n_hard for r in group),
        n_quietest=sum(r.n_not_quiet > 0 for r in group),
        n_unanswered=sum(r.n_unanswered for r in group),
        balanced_accuracy=_mean(group, "balanced_accuracy", layers),
        chance={"intruder": 0.2, "simulation": 0.0}.get(kind, 0.5),
        auc=_mean(group, "auc", layers),
        correlation=_mean(group, "correlation", layers),
        reason="; ".join(lost) or None,
        lost=lost,
    )


def _mean(group: Sequence[Any], name: str, layers: dict[FeatureName, int | None]) -> Estimate | None:
    """Mean over the features that have the number."""
    scored = [r for r in group if getattr(r, name) is not None]
    if not scored:
        return None
    return agreement.clustered_mean([getattr(r, name) for r in scored], _clusters(scored, layers))


def _blocks(rows: Sequence[ScoreRow]) -> list[Block[ScoreRow]]:
    interpreters = dict.fromkeys(r.interpreter for r in rows)
    return [Block(f"explained by {name}", [r for r in rows if r.interpreter == name]) for name in interpreters]


REPORT = Report[ScoreRow](
    "scores",
    "Scores: how well explanations predict held-out contexts",
    scores,
    (
        Column("source", lambda r: r.source, "left"),
        Column("test", lambda r: r.kind, "left"),
        Column("features", lambda r: f"{count(r.n_scored)} of {count(r.n_features)}"),
        Column("contexts", lambda r: count(r.n_contexts), leaves=4),
        Column("quietest", lambda r: count(r.n_quietest), leaves=1),
        Column("unanswered", lambda r: count(r.n_unanswered), leaves=2),
        Column("score", lambda r: inline(r.correlation if r.kind == "simulation" else r.balanced_accuracy)),
        Column("above control", above_cell),
        Column("AUC", lambda r: inline(r.auc), leaves=3),
    ),
    ("score", "output"),
    "scores",
    order=170,
    label=lambda r: r.source,
    legend=(
        "Means over features; 95 % intervals bootstrap-t by layer (Student's t below 8). Score: balanced accuracy, "
        "chance 0.5; intruder: share found among five contexts, chance 0.2 (contexts: tests); simulation: correlation "
        "of predicted and true activation over tokens, half of the contexts the strongest, half random, chance 0. Half "
        "of the negatives hold a token that the feature fires on, where there are such. Quietest: features too dense "
        "for quiet contexts, tested on their quietest. What is not answered counts as wrong, in simulations as 0. "
        "Output: which of the measured tokens (contexts) the feature raises most, chance 0.5, beside the same answer "
        "held against a random direction (paired by feature; docs/judging.md). " + LEGEND
    ),
    blocks=_blocks,
)
