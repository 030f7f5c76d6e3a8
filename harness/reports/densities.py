"""Activation densities of categories and subcategories (the paper's figure 2).

A feature's density is the sum of its activations over all tokens; a category's is the sum over its features, divided by
the sum over all features of the source (of the source's layer, or projection). A subcategory's is divided by its
category's. Magnitudes of different adapter components are not on one scale (A's norm is arbitrary): compare sources by
`share` as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import count, inline, percent, short, text
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate
from harness.reports.common.controls import LEGEND, above_cell, beside_controls, controls
from harness.reports.common.features import category_assignments, stored_categories, stored_features
from harness.reports.common.rows import cached_query

MANY = 2_000
"""Clusters above which the interval is linearised: bootstrapped, 25,000 latents take two seconds."""


@dataclass(frozen=True)
class DensityRow:
    """The activation density of one category, or of one of its subcategories.

    `by` says of what: `source`, `subcategory` (of its category), `layer` or `projection` (of the source's features
    there). 95 % interval by bootstrap-t over layers (Student's t below 8); over features where they
    have none, or where it is of one layer.
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
    density: Estimate | None
    reason: str | None
    control: str | None = None
    above_control: Estimate | None = None


class _Assigned(NamedTuple):
    """A categorised feature with its place and summed activation."""

    feature: str
    category: str
    subcategory: str | None
    layer: int | None
    projection: str | None
    weight: float


@cached_query
def densities(connection: Connection, run_id: int, places: Sequence[str] = ("layer", "projection")) -> list[DensityRow]:
    """Densities per source: of categories, of subcategories within each, and of categories by layer and projection."""
    names = stored_categories(connection, run_id)
    rows: list[DensityRow] = []
    for (source, plugin, step_id), assigned in _by_source(connection, run_id).items():

        def row(
            by: str, some: Sequence[_Assigned], of: Sequence[_Assigned], source: str = source,
            plugin: str | None = plugin, step_id: int = step_id,
        ) -> DensityRow:  # fmt: skip
            return _row(source, plugin, by, some, of, {n[1:]: c.name for n, c in names.items() if n.step_id == step_id})

        by_category = _grouped(assigned, lambda a: a.category)
        rows += [row("source", some, assigned) for some in by_category]
        for some in by_category:
            divided = [a for a in some if a.subcategory is not None]
            rows += [row("subcategory", part, divided) for part in _grouped(divided, lambda a: a.subcategory)]
        for by in places:
            placed = [a for a in assigned if getattr(a, by) is not None]
            for there in _grouped(placed, lambda a, by=by: getattr(a, by)):  # type: ignore[misc]
                rows += [row(by, some, there) for some in _grouped(there, lambda a: a.category)]
    return beside_controls(
        rows,
        controls(connection, run_id),
        same=lambda r: (r.interpreter, r.by, r.layer, r.projection, r.category, r.subcategory),
        number=lambda r: r.density,
    )


def _row(
    source: str, plugin: str | None, by: str, some: Sequence[_Assigned], of: Sequence[_Assigned],
    names: dict[tuple[str | None, str], str],
) -> DensityRow:  # fmt: skip
    first = some[0]
    subcategory = first.subcategory if by == "subcategory" else None
    active = sum(a.weight for a in of) > 0
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
        density=_density(some, of, clustered=by != "layer") if active else None,
        reason=None if active else "no activations of these features are stored in this run",
    )


def _density(some: Sequence[_Assigned], of: Sequence[_Assigned], *, clustered: bool) -> Estimate:
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
        share = stats.ratio_over_many(parts, wholes)
        return Estimate(share.value, max(0.0, share.low), min(1.0, share.high))
    return stats.ratio_over_documents(parts, wholes)


def _grouped(assigned: Sequence[_Assigned], key: Callable[[_Assigned], Any]) -> list[list[_Assigned]]:
    """Features with the same key together, the heaviest group first."""
    groups: dict[Any, list[_Assigned]] = defaultdict(list)
    for a in assigned:
        groups[key(a)].append(a)
    return sorted(groups.values(), key=lambda some: -sum(a.weight for a in some))


@cached_query
def _by_source(connection: Connection, run_id: int) -> dict[tuple[str, str | None, int], list[_Assigned]]:
    """(source, interpreter, step) -> its features with their category, place and summed activation."""
    stored = stored_features(connection, run_id)
    by_source: dict[tuple[str, str | None, int], list[_Assigned]] = defaultdict(list)
    for a in category_assignments(connection, run_id):
        f = stored.get((a.source, a.feature))
        if f is not None:
            assigned = _Assigned(
                a.feature, a.category, a.subcategory, f.layer, f.projection, max(f.activation_sum, 0.0)
            )
            by_source[a.source, a.plugin, a.step_id].append(assigned)
    return by_source


def _blocks(rows: Sequence[DensityRow]) -> list[Block[DensityRow]]:
    """Each category followed by its subcategories."""
    groups: dict[tuple[str, str | None], list[DensityRow]] = {}
    for row in rows:
        if row.by in ("source", "subcategory"):
            groups.setdefault((row.source, row.interpreter), []).append(row)
    blocks = []
    for (source, interpreter), group in groups.items():
        ordered: list[DensityRow] = []
        for whole in (r for r in group if r.by == "source"):
            ordered += [whole, *(r for r in group if r.by == "subcategory" and r.category == whole.category)]
        blocks.append(Block(f"{source}, categorised by {text(interpreter)}", ordered))
    return blocks


REPORT = Report[DensityRow](
    "densities",
    "Activation density of categories and subcategories",
    densities,
    (
        Column("category", lambda r: "" if r.subcategory else short(r.name), "left", wrap=True, ratio=2),
        Column("subcategory", lambda r: short(r.subcategory_name or ""), "left", wrap=True, ratio=2),
        Column("features", lambda r: f"{count(r.n_features)} of {count(r.n_features_of)}"),
        Column("density", lambda r: inline(r.density, percent)),
        Column("above control", above_cell),
    ),
    ("categorise",),
    "densities",
    order=180,
    label=lambda r: r.source,
    legend=(
        "Share of the source's summed activations; of a subcategory, of its category's. 95 % intervals: bootstrap-t "
        "by layer (Student's t below 8), by feature for latents (linearised above 2,000). By layer and "
        "projection: --format json. " + LEGEND
    ),
    blocks=_blocks,
    preview=lambda connection, run_id: densities(connection, run_id, ()),
)
