"""Features with their explanations, and categories."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from harness import stats
from harness.records import PLANTED
from harness.reports.query_common import finite, once, own_steps, plan_order
from harness.store.schema import Category, CategoryAssignment, Exemplar, Explanation, Feature, Step

CONTEXT_TOKENS = 8
"""Tokens of the highest exemplar's context kept on either side of its token."""


@dataclass(frozen=True)
class FeatureRow:
    """A feature and what an interpreter made of it; once per interpreter."""

    source: str
    feature: str
    layer: int | None
    projection: str | None
    interpreter: str | None
    explanation: str | None
    grade: int | None
    reason: str | None
    category: str | None
    density_per_token: float | None
    activation_max: float | None
    activation_sum: float | None
    n_tokens: int | None
    n_exemplars: int
    top_token: str | None
    top_token_context: str | None


@dataclass(frozen=True)
class CategoryRow:
    """One category among a source's features.

    `share` counts features; `activation_density` weighs them by their summed activations (the paper's figure 2).
    """

    source: str
    interpreter: str | None
    category: str
    name: str
    definition: str | None
    n_features: int
    share: float
    share_ci_low: float | None
    share_ci_high: float | None
    activation_density: float | None
    reason: str | None


def features(connection: Connection, run_id: int) -> list[FeatureRow]:
    """All features; those with an explanation first, then by summed activation, within each source."""
    stored = _features(connection, run_id)
    explained = _explanations(connection, run_id)
    assigned = _assignments(connection, run_id)
    tops, counts = _top_exemplars(connection, run_id), _exemplar_counts(connection, run_id)
    by_feature: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for e in explained:
        by_feature[e.source, e.feature].append(e)
    rows = []
    for name in dict.fromkeys([*stored, *by_feature]):
        f = stored.get(name)
        for e in by_feature.get(name) or [None]:
            top = tops.get(f.id) if f else None
            interpreter = e.interpreter if e else None
            category = assigned.get((*name, interpreter))
            rows.append(feature_row(name, f, e, category, counts.get(f.id, 0) if f else 0, top))
    order = {source: i for i, source in enumerate(dict.fromkeys(r.source for r in rows))}
    rows.sort(key=lambda r: (order[r.source], r.interpreter is None, -(r.activation_sum or 0.0)))
    return rows


def feature_row(
    name: tuple[str, str], f: Any, e: Any, category: str | None, n_exemplars: int, top: tuple[str, str] | None
) -> FeatureRow:
    """A row from a stored feature, its explanation, category and highest exemplar; any of them may be missing."""
    return FeatureRow(
        source=name[0],
        feature=name[1],
        layer=f.layer if f else None,
        projection=f.projection if f else None,
        interpreter=e.interpreter if e else None,
        explanation=e.explanation if e else None,
        grade=e.grade if e else None,
        reason=e.reason if e else "not explained",
        category=category,
        density_per_token=f.density_per_token if f else None,
        activation_max=f.activation_max if f else None,
        activation_sum=f.activation_sum if f else None,
        n_tokens=f.n_tokens if f else None,
        n_exemplars=n_exemplars,
        top_token=top[0] if top else None,
        top_token_context=top[1] if top else None,
    )


def categories(connection: Connection, run_id: int) -> list[CategoryRow]:
    """Categories per source, largest first; features without a category are the category `uncategorised`."""
    stored = _features(connection, run_id)
    found = connection.execute(
        select(CategoryAssignment.__table__, Step.plugin)
        .join(Step, Step.id == CategoryAssignment.step_id)
        .where(CategoryAssignment.step_id.in_(own_steps(run_id)))
        .order_by(CategoryAssignment.id)
    )
    by_source: dict[tuple[str, str | None, int], list[Any]] = defaultdict(list)
    for a in found:
        by_source[a.source, a.plugin, a.step_id].append(a)
    named = {
        (c.step_id, c.category): c
        for c in connection.execute(
            select(Category.__table__).where(Category.step_id.in_(own_steps(run_id)), Category.parent.is_(None))
        )
    }
    rows = []
    for (source, plugin, step_id), own in by_source.items():
        places = [stored.get((a.source, a.feature)) for a in own]
        layers = [place.layer if place else None for place in places]
        given = [a.category for a in own]
        weights: dict[str, float] = defaultdict(float)
        for of_category, place in zip(given, places, strict=True):
            weights[of_category] += place.activation_sum if place else 0.0
        total = sum(weights.values())
        for category, n in Counter(given).most_common():
            share = stats.clustered_share([c == category for c in given], layers)
            weight = weights[category]
            entry = named.get((step_id, category))
            rows.append(
                CategoryRow(
                    source=source,
                    interpreter=plugin,
                    category=category,
                    name=entry.name if entry else category,
                    definition=entry.definition if entry else None,
                    n_features=n,
                    share=share.value,
                    share_ci_low=finite(share.low),
                    share_ci_high=finite(share.high),
                    activation_density=weight / total if total > 0 else None,
                    reason=None if total > 0 else "no activations of these features are stored in this run",
                )
            )
    return rows


@once
def _features(connection: Connection, run_id: int) -> dict[tuple[str, str], Any]:
    """(source, feature) -> row, in the order in which they were stored; the newest of each."""
    columns = (Feature.id, Feature.source, Feature.feature, Feature.layer, Feature.projection,
               Feature.density_per_token, Feature.activation_max, Feature.activation_sum, Feature.n_tokens)  # fmt: skip
    rows = connection.execute(
        select(*columns)
        .where(Feature.step_id.in_(own_steps(run_id)), Feature.source != PLANTED)
        .order_by(*plan_order(run_id, Feature))
    )
    return {(r.source, r.feature): r for r in rows}


def _explanations(connection: Connection, run_id: int) -> list[Any]:
    """The newest explanation of each feature by each interpreter."""
    columns = (Explanation.source, Explanation.feature, Explanation.interpreter, Explanation.explanation,
               Explanation.grade, Explanation.reason)  # fmt: skip
    rows = connection.execute(
        select(*columns)
        .where(Explanation.step_id.in_(own_steps(run_id)), Explanation.source != PLANTED)
        .order_by(Explanation.id)
    )
    return list({(r.source, r.feature, r.interpreter): r for r in rows}.values())


def _assignments(connection: Connection, run_id: int) -> dict[tuple[str, str, str | None], str]:
    """(source, feature, interpreter) -> category."""
    a = CategoryAssignment
    rows = connection.execute(
        select(a.source, a.feature, Step.plugin, a.category)
        .join(Step, Step.id == a.step_id)
        .where(a.step_id.in_(own_steps(run_id)))
        .order_by(a.id)
    )
    return {(r.source, r.feature, r.plugin): r.category for r in rows}


def _top_exemplars(connection: Connection, run_id: int) -> dict[int, tuple[str, str]]:
    """feature_id -> its highest exemplar's token, and that token in its context."""
    rows = connection.execute(
        select(Exemplar.feature_id, Exemplar.tokens_json, Exemplar.target)
        .join(Feature, Feature.id == Exemplar.feature_id)
        .where(Exemplar.rank == 0, Exemplar.quantile.is_(None), Feature.step_id.in_(own_steps(run_id)))
    )
    return {r.feature_id: (r.tokens_json[r.target], context_of(r.tokens_json, r.target)) for r in rows}


def _exemplar_counts(connection: Connection, run_id: int) -> dict[int, int]:
    rows: Iterable[Any] = connection.execute(
        select(Exemplar.feature_id, func.count().label("n"))
        .join(Feature, Feature.id == Exemplar.feature_id)
        .where(Feature.step_id.in_(own_steps(run_id)), Exemplar.quantile.is_(None))
        .group_by(Exemplar.feature_id)
    )
    return {r.feature_id: r.n for r in rows}


def context_of(tokens: list[str], target: int) -> str:
    """The tokens round the target, the target between « and »."""
    before = "".join(tokens[max(0, target - CONTEXT_TOKENS) : target])
    after = "".join(tokens[target + 1 : target + 1 + CONTEXT_TOKENS])
    return f"{before}«{tokens[target]}»{after}"
