"""How far grades and explanations can be believed: planted features, agreement, right classes, scores, enrichment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness import stats
from harness.interpretation import agreement
from harness.interpretation.naming import named_classes
from harness.records import PLANTED
from harness.reports.query_common import finite, once, own_steps
from harness.reports.query_grades import LABELS, Graded, graded
from harness.store.schema import (
    CategoryAssignment,
    CategoryTrial,
    Enrichment,
    EventAssociation,
    ExplanationScore,
    Feature,
    JudgeTrial,
    PlantedFeature,
    Step,
)

ONE_CLASS = 0.8
"""A feature is of one class of tokens where it holds this share of its exemplars."""

SIGNIFICANT = 0.05
"""q-value from which an association counts."""


@dataclass(frozen=True)
class JudgeRow:
    """One measure of how far a judge can be believed.

    `planted`: how planted features of a kind were graded, one row per outcome. `agreement`: kappa between the first
    grading and those made again (Fleiss; Cohen for another judge), failures as a class of their own. `right class`:
    explanations of features that are of one ground-truth class, by what they name. `categories again`: adjusted Rand
    index of the categories of a re-run with other explanations; 1 is the same partition, 0 is chance.
    """

    interpreter: str
    measure: str
    subject: str
    outcome: str
    right: bool | None
    n: int | None
    n_features: int
    value: float | None
    value_ci_low: float | None
    value_ci_high: float | None
    unit: str
    reason: str | None


@dataclass(frozen=True)
class ScoreRow:
    """One kind of scoring test of a source's explanations: means over features, 95 % intervals clustered by layer."""

    source: str
    interpreter: str
    kind: str
    n_features: int
    n_scored: int
    n_contexts: int
    n_hard: int
    n_unanswered: int
    balanced_accuracy: float | None
    balanced_accuracy_ci_low: float | None
    balanced_accuracy_ci_high: float | None
    chance: float
    auc: float | None
    auc_ci_low: float | None
    auc_ci_high: float | None
    reason: str | None


@dataclass(frozen=True)
class EnrichmentRow:
    """One feature and one kind of token; `n_enriched` counts the source's features that favour it."""

    source: str
    feature: str
    layer: int | None
    projection: str | None
    family: str
    event: str
    n_event: int
    n_both: int
    n_active: int
    n_tokens: int
    n_documents: int
    active_above: float
    activation_share: float | None
    odds_ratio: float | None
    odds_ratio_ci_low: float | None
    odds_ratio_ci_high: float | None
    p_value: float | None
    q_value: float | None
    n_enriched: int
    n_features: int
    reason: str | None


def judge(connection: Connection, run_id: int) -> list[JudgeRow]:
    """Every measure of every judge."""
    by_interpreter: dict[str, list[Graded]] = defaultdict(list)
    for g in graded(connection, run_id):
        by_interpreter[g.interpreter].append(g)
    rows: list[JudgeRow] = []
    for interpreter, own in by_interpreter.items():
        rows += _planted(connection, run_id, interpreter, own)
        rows += _agreement(connection, run_id, interpreter, own)
        rows += _right_class(connection, run_id, interpreter, own)
        rows += _categories_again(connection, run_id, interpreter)
    return rows


def scores(connection: Connection, run_id: int) -> list[ScoreRow]:
    """Scores per source and kind of test."""
    s = ExplanationScore
    layers = _layers(connection, run_id)
    columns = (s.source, s.feature, s.interpreter, s.kind, s.n_positive, s.n_negative, s.n_hard, s.n_unanswered,
               s.balanced_accuracy, s.auc, s.reason)  # fmt: skip
    found = connection.execute(select(*columns).where(s.step_id.in_(own_steps(run_id))).order_by(s.id))
    groups: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for row in {(r.source, r.interpreter, r.kind, r.feature): r for r in found}.values():
        groups[row.source, row.interpreter, row.kind].append(row)
    return [_score_row(*name, own, layers) for name, own in groups.items()]


def enrichment(connection: Connection, run_id: int) -> list[EnrichmentRow]:
    """Every feature and kind of token; within a source and kind the surest enrichment (largest lower bound) first."""
    e, a = Enrichment, EventAssociation
    places = {(f.source, f.feature): f for f in _features(connection, run_id)}
    found = connection.execute(
        select(*enrichment_columns())
        .join(a, a.enrichment_id == e.id)
        .where(e.step_id.in_(own_steps(run_id)))
        .order_by(e.id, a.id)
    )
    groups: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for row in found:
        groups[row.source, row.family, row.event].append(row)
    rows = []
    for own in groups.values():
        n = sum(r.q_value is not None and r.q_value < SIGNIFICANT and r.odds_ratio > 1 for r in own)
        for r in sorted(own, key=lambda r: -(r.ci_low or 0.0)):
            place = places.get((r.source, r.feature))
            rows.append(enrichment_row(r._asdict(), place, n_enriched=n, n_features=len(own)))
    return rows


def enrichment_columns() -> tuple[Any, ...]:
    """What is read of a feature and a kind of token."""
    e, a = Enrichment, EventAssociation
    return (e.source, e.feature, a.family, a.event, a.n_event, a.n_both, e.n_active, e.n_tokens, e.n_documents,
            e.active_above, a.activation_share, a.odds_ratio, a.ci_low, a.ci_high, a.p_value, a.q_value,
            a.reason)  # fmt: skip


def enrichment_row(values: dict[str, Any], place: Any, *, n_enriched: int, n_features: int) -> EnrichmentRow:
    """A row from the columns read, the feature's place (None where it is not stored) and the counts of its group."""
    return EnrichmentRow(
        layer=place.layer if place else None,
        projection=place.projection if place else None,
        odds_ratio_ci_low=values.pop("ci_low"),
        odds_ratio_ci_high=values.pop("ci_high"),
        n_enriched=n_enriched,
        n_features=n_features,
        **values,
    )


def _planted(connection: Connection, run_id: int, interpreter: str, own: Sequence[Graded]) -> Iterator[JudgeRow]:
    """The confusion matrix: a row per kind and outcome, empty ones left out but for the right one."""
    p = PlantedFeature
    kinds = connection.execute(select(p.feature, p.kind, p.right_grade).where(p.step_id.in_(own_steps(run_id))))
    outcomes = {g.feature: (g.grade, g.status) for g in own if g.source == PLANTED}
    by_kind: dict[tuple[str, int], list[tuple[int | None, str]]] = defaultdict(list)
    for row in kinds:
        if row.feature in outcomes:
            by_kind[row.kind, row.right_grade].append(outcomes[row.feature])
    for (kind, right), found in by_kind.items():
        counts = Counter(found)
        for outcome, label in {**LABELS, (None, "dead"): "dead"}.items():
            is_right = outcome == (right, "graded")
            if counts[outcome] or is_right:
                share = stats.share(counts[outcome], len(found))
                name = label if outcome[0] is None else f"{outcome[0]} {label}"
                yield JudgeRow(
                    interpreter, "planted", kind, name, is_right, counts[outcome], len(found),
                    share.value, finite(share.low), finite(share.high), "share", None,
                )  # fmt: skip


def _agreement(connection: Connection, run_id: int, interpreter: str, own: Sequence[Graded]) -> Iterator[JudgeRow]:
    t = JudgeTrial
    first = {(g.source, g.feature): g.grade for g in own}
    found = connection.execute(
        select(t.source, t.feature, t.condition, t.trial, t.grade)
        .where(t.step_id.in_(own_steps(run_id)), t.interpreter == interpreter)
        .order_by(t.id)
    )
    again: dict[str, dict[tuple[str, str], dict[int, int | None]]] = defaultdict(lambda: defaultdict(dict))
    for r in found:
        if (r.source, r.feature) in first:
            again[r.condition][r.source, r.feature][r.trial] = r.grade
    for condition, features in again.items():
        n_trials = max(len(trials) for trials in features.values())
        ratings = [
            [first[feature], *trials.values()] for feature, trials in features.items() if len(trials) == n_trials
        ]
        found_kappa = (
            agreement.cohen_kappa([(a, b) for a, b in ratings])
            if condition in ("second-judge", "explainer")
            else agreement.fleiss_kappa(ratings)
        )
        same = sum(len(set(case)) == 1 for case in ratings)
        yield _measured(
            found_kappa, interpreter, "agreement", condition, f"{n_trials + 1} gradings, all the same", same,
            len(ratings), "kappa",
        )  # fmt: skip


def _right_class(connection: Connection, run_id: int, interpreter: str, own: Sequence[Graded]) -> Iterator[JudgeRow]:
    """Of the features that are of one class: how many explanations name it, another one, or none."""
    e = Enrichment
    found = connection.execute(
        select(e.source, e.feature, e.top_class, e.step_id).where(
            e.step_id.in_(own_steps(run_id)), e.top_class.is_not(None), e.top_class_share >= ONE_CLASS
        )
    ).all()
    if not found:
        return
    config = connection.execute(select(Step.config_json).where(Step.id == found[0].step_id)).scalar_one()
    classes = {r.top_class for r in found} | set(config.get("class_words", {}))
    words = {c: config.get("class_words", {}).get(c) or (c.replace("_", " "),) for c in classes}
    truth = {(r.source, r.feature): r.top_class for r in found}
    by_source: dict[str, list[tuple[Graded, str]]] = defaultdict(list)
    for g in own:
        if (g.source, g.feature) in truth and g.status != "dead":
            by_source[g.source].append((g, truth[g.source, g.feature]))
    for source, pairs in by_source.items():
        named = [_naming(g.explanation, right, words) for g, right in pairs]
        outcomes = Counter(named)
        for outcome in ("names the class", "names another", "names none", "no explanation"):
            if outcomes[outcome] or outcome == "names the class":
                hits = [n == outcome for n in named]
                share = stats.clustered_share(hits, [g.layer for g, _ in pairs])
                yield JudgeRow(
                    interpreter, "right class", source, outcome, outcome == "names the class", sum(hits), len(pairs),
                    share.value, finite(share.low), finite(share.high), "share", None,
                )  # fmt: skip


def _naming(explanation: str | None, right: str, words: dict[str, Sequence[str]]) -> str:
    if explanation is None:
        return "no explanation"
    named = named_classes(explanation, words)
    return "names the class" if right in named else "names another" if named else "names none"


def _categories_again(connection: Connection, run_id: int, interpreter: str) -> Iterator[JudgeRow]:
    c, a = CategoryTrial, CategoryAssignment
    again = connection.execute(
        select(c.source, c.feature, c.category)
        .where(c.step_id.in_(own_steps(run_id)), c.interpreter == interpreter)
        .order_by(c.id)
    ).all()
    assigned = connection.execute(
        select(a.source, a.feature, a.category)
        .join(Step, Step.id == a.step_id)
        .where(a.step_id.in_(own_steps(run_id)), Step.plugin == interpreter)
    )
    first = {(r.source, r.feature): r.category for r in assigned}
    pairs = [(first[r.source, r.feature], r.category) for r in again if (r.source, r.feature) in first]
    if not pairs:
        return
    index = agreement.jackknife(lambda some: agreement.adjusted_rand([p[0] for p in some], [p[1] for p in some]), pairs)
    same = sum(x == y for x, y in pairs)
    yield _measured(
        index, interpreter, "categories again", "all sources", "the same string_id", same, len(pairs),
        "adjusted Rand index",
    )  # fmt: skip


def _measured(
    found: stats.Estimate | stats.Undefined, interpreter: str, measure: str, subject: str, outcome: str, n: int,
    n_features: int, unit: str,
) -> JudgeRow:  # fmt: skip
    """A coefficient of agreement, or why there is none."""
    if isinstance(found, stats.Undefined):
        return JudgeRow(
            interpreter, measure, subject, outcome, None, n, n_features, None, None, None, unit, found.reason
        )
    low, high = finite(found.low), finite(found.high)
    return JudgeRow(interpreter, measure, subject, outcome, None, n, n_features, found.value, low, high, unit, None)


def _score_row(
    source: str, interpreter: str, kind: str, own: Sequence[Any], layers: dict[tuple[str, str], int | None]
) -> ScoreRow:
    scored = [r for r in own if r.balanced_accuracy is not None]
    with_auc = [r for r in own if r.auc is not None]
    accuracy, area = (
        agreement.clustered_mean(
            [getattr(r, name) for r in rows], [layers.get((r.source, r.feature), r.feature) for r in rows]
        )
        if rows
        else None
        for name, rows in (("balanced_accuracy", scored), ("auc", with_auc))
    )
    lost = Counter(r.reason for r in own if r.balanced_accuracy is None)
    reason = "; ".join(f"{n} of {len(own)} features not scored: {why}" for why, n in lost.most_common(3)) or None
    tests = kind == "intruder"
    return ScoreRow(
        source=source,
        interpreter=interpreter,
        kind=kind,
        n_features=len(own),
        n_scored=len(scored),
        n_contexts=sum(r.n_positive + (0 if tests else r.n_negative) for r in own),
        n_hard=sum(r.n_hard for r in own),
        n_unanswered=sum(r.n_unanswered for r in own),
        balanced_accuracy=accuracy.value if accuracy else None,
        balanced_accuracy_ci_low=finite(accuracy.low) if accuracy else None,
        balanced_accuracy_ci_high=finite(accuracy.high) if accuracy else None,
        chance=0.2 if tests else 0.5,
        auc=area.value if area else None,
        auc_ci_low=finite(area.low) if area else None,
        auc_ci_high=finite(area.high) if area else None,
        reason=reason,
    )


@once
def _features(connection: Connection, run_id: int) -> list[Any]:
    columns = (Feature.source, Feature.feature, Feature.layer, Feature.projection)
    return list(connection.execute(select(*columns).where(Feature.step_id.in_(own_steps(run_id)))))


def _layers(connection: Connection, run_id: int) -> dict[tuple[str, str], Any]:
    """(source, feature) -> layer; a feature without one is a cluster of its own."""
    return {(f.source, f.feature): f.layer if f.layer is not None else f.feature for f in _features(connection, run_id)}
