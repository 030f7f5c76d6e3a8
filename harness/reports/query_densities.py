"""Activation densities of categories and subcategories: the data of figure 2.

A feature's density is the sum of its activations over all tokens; a category's is the sum over its features, divided by
the sum over all features of the source (of the source's layer, or projection). A subcategory's is divided by its
category's. Magnitudes of different adapter components are not on one scale (A's norm is arbitrary): compare sources by
`share` as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from harness import stats
from harness.records import PLANTED
from harness.reports.query_common import finite, once, own_steps, plan_order
from harness.store.schema import Category, CategoryAssignment, Feature, Step


@dataclass(frozen=True)
class DensityRow:
    """The activation density of one category, or of one of its subcategories.

    `by` says of what: `source`, `subcategory` (of its category), `layer` or `projection` (of the source's features
    there). 95 % interval by bootstrap over layers; over features where they have none, or where it is of one layer.
    """

    source: str
    interpreter: str | None
    by: str
    layer: int | None
    projection: str | None
    category: str
    name: str
    subcategory: str | None
    subcategory_name: str | None
    n_features: int
    n_features_of: int
    activation_sum: float
    density: float | None
    density_ci_low: float | None
    density_ci_high: float | None
    reason: str | None


MANY = 2_000
"""Clusters above which the interval is linearised: bootstrapped, 25,000 latents take two seconds."""


class _Assigned(NamedTuple):
    feature: str
    category: str
    subcategory: str | None
    layer: int | None
    projection: str | None
    weight: float


def densities(connection: Connection, run_id: int, places: Sequence[str] = ("layer", "projection")) -> list[DensityRow]:
    """Densities per source: of categories, of subcategories within each, and of categories by layer and projection."""
    names = _names(connection, run_id)
    rows: list[DensityRow] = []
    for (source, plugin, step_id), own in _assigned(connection, run_id).items():

        def row(
            by: str, some: Sequence[_Assigned], of: Sequence[_Assigned], source: str = source,
            plugin: str | None = plugin, step_id: int = step_id,
        ) -> DensityRow:  # fmt: skip
            return _row(source, plugin, by, some, of, {k[1:]: v for k, v in names.items() if k[0] == step_id})

        by_category = _grouped(own, lambda a: a.category)
        rows += [row("source", some, own) for some in by_category]
        for some in by_category:
            divided = [a for a in some if a.subcategory is not None]
            rows += [row("subcategory", part, divided) for part in _grouped(divided, lambda a: a.subcategory)]
        for by in places:
            for there in _grouped([a for a in own if getattr(a, by) is not None], lambda a, by=by: getattr(a, by)):
                rows += [row(by, some, there) for some in _grouped(there, lambda a: a.category)]
    return rows


def _row(
    source: str, plugin: str | None, by: str, some: Sequence[_Assigned], of: Sequence[_Assigned],
    names: dict[tuple[str | None, str], str],
) -> DensityRow:  # fmt: skip
    first = some[0]
    total = sum(a.weight for a in of)
    found = _interval(some, of, clustered=by != "layer") if total > 0 else None
    subcategory = first.subcategory if by == "subcategory" else None
    return DensityRow(
        source=source,
        interpreter=plugin,
        by=by,
        layer=first.layer if by == "layer" else None,
        projection=first.projection if by == "projection" else None,
        category=first.category,
        name=names.get((None, first.category), first.category),
        subcategory=subcategory,
        subcategory_name=names.get((first.category, subcategory), subcategory) if subcategory else None,
        n_features=len(some),
        n_features_of=len(of),
        activation_sum=sum(a.weight for a in some),
        density=found.value if found else None,
        density_ci_low=finite(found.low) if found else None,
        density_ci_high=finite(found.high) if found else None,
        reason=None if found else "no activations of these features are stored in this run",
    )


def _interval(some: Sequence[_Assigned], of: Sequence[_Assigned], *, clustered: bool) -> stats.Estimate:
    """The share of `some` in the weight of `of`, resampled by layer, or by feature where there is none."""
    inside = {a.feature for a in some}
    layers = {a.layer for a in of}
    by_layer = clustered and None not in layers and len(layers) > 1
    top: dict[Any, float] = defaultdict(float)
    bottom: dict[Any, float] = defaultdict(float)
    for a in of:
        cluster = a.layer if by_layer else a.feature
        top[cluster] += a.weight if a.feature in inside else 0.0
        bottom[cluster] += a.weight
    parts, wholes = [top[c] for c in bottom], list(bottom.values())
    if len(wholes) > MANY:
        found = stats.ratio_over_many(parts, wholes)
        return stats.Estimate(found.value, max(0.0, found.low), min(1.0, found.high))
    return stats.ratio_over_documents(parts, wholes)


def _grouped(own: Sequence[_Assigned], key: Any) -> list[list[_Assigned]]:
    """Features with the same key together, the heaviest group first."""
    groups: dict[Any, list[_Assigned]] = defaultdict(list)
    for a in own:
        groups[key(a)].append(a)
    return sorted(groups.values(), key=lambda some: -sum(a.weight for a in some))


@once
def _assigned(connection: Connection, run_id: int) -> dict[tuple[str, str | None, int], list[_Assigned]]:
    """(source, interpreter, step) -> its features with their category, place and summed activation."""
    f, a, steps = Feature, CategoryAssignment, own_steps(run_id)
    stored = {
        (r.source, r.feature): r
        for r in connection.execute(
            select(f.source, f.feature, f.layer, f.projection, f.activation_sum)
            .where(f.step_id.in_(steps), f.source != PLANTED)
            .order_by(*plan_order(run_id, f))
        )
    }
    found: dict[tuple[str, str | None, int], list[_Assigned]] = defaultdict(list)
    for r in connection.execute(
        select(a.source, a.feature, a.category, a.subcategory, a.step_id, Step.plugin)
        .join(Step, Step.id == a.step_id)
        .where(a.step_id.in_(steps))
        .order_by(a.id)
    ):
        place = stored.get((r.source, r.feature))
        if place is not None:
            weight = max(place.activation_sum, 0.0)
            own = _Assigned(r.feature, r.category, r.subcategory, place.layer, place.projection, weight)
            found[r.source, r.plugin, r.step_id].append(own)
    return found


@once
def _names(connection: Connection, run_id: int) -> dict[tuple[int, str | None, str], str]:
    """(step, parent, string_id) -> the category's name."""
    c = Category
    rows: Iterator[Any] = iter(
        connection.execute(select(c.step_id, c.parent, c.category, c.name).where(c.step_id.in_(own_steps(run_id))))
    )
    return {(r.step_id, r.parent, r.category): r.name for r in rows}
