"""Categories among the features of each source (the paper's figure 1)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import count, inline, percent, short, text
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate
from harness.reports.common.controls import LEGEND, above_cell, beside_controls, controls
from harness.reports.common.features import CategoryName, category_assignments, stored_categories, stored_features


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
    share: Estimate
    activation_density: float | None
    reason: str | None
    control: str | None = None
    above_control: Estimate | None = None


def categories(connection: Connection, run_id: int) -> list[CategoryRow]:
    """Categories per source, largest first; features without a category are the category `uncategorised`."""
    stored, names = stored_features(connection, run_id), stored_categories(connection, run_id)
    by_source: dict[tuple[str, str | None, int], list[Any]] = defaultdict(list)
    for a in category_assignments(connection, run_id):
        by_source[a.source, a.plugin, a.step_id].append(a)
    rows = []
    for (source, plugin, step_id), assignments in by_source.items():
        features = [stored.get((a.source, a.feature)) for a in assignments]
        layers = [f.layer if f else None for f in features]
        assigned = [a.category for a in assignments]
        weights: dict[str, float] = defaultdict(float)
        for category, f in zip(assigned, features, strict=True):
            weights[category] += f.activation_sum if f else 0.0
        total = sum(weights.values())
        for category, n in Counter(assigned).most_common():
            entry = names.get(CategoryName(step_id, None, category))
            rows.append(
                CategoryRow(
                    source=source,
                    interpreter=plugin,
                    category=category,
                    name=entry.name if entry else category,
                    definition=entry.definition if entry else None,
                    n_features=n,
                    share=stats.clustered_share([c == category for c in assigned], layers),
                    activation_density=weights[category] / total if total > 0 else None,
                    reason=None if total > 0 else "no activations of these features are stored in this run",
                )
            )
    n_features = {source: len(assignments) for (source, _, _), assignments in by_source.items()}
    return beside_controls(
        rows,
        controls(connection, run_id),
        same=lambda r: (r.interpreter, r.category),
        number=lambda r: r.share,
        absent=lambda source: stats.share(0, n) if (n := n_features.get(source)) else None,
    )


def _blocks(rows: Sequence[CategoryRow]) -> list[Block[CategoryRow]]:
    groups: dict[tuple[str, str | None], list[CategoryRow]] = {}
    for row in rows:
        groups.setdefault((row.source, row.interpreter), []).append(row)
    return [
        Block(f"{source}, categorised by {text(interpreter)}: {sum(r.n_features for r in group)} features", group)
        for (source, interpreter), group in groups.items()
    ]


REPORT = Report[CategoryRow](
    "categories",
    "Categories",
    categories,
    (
        Column("category", lambda r: short(r.name), "left", wrap=True, ratio=2),
        Column("id", lambda r: short(r.category), "left", wrap=True, ratio=1, leaves=1),
        Column("features", lambda r: count(r.n_features)),
        Column("share", lambda r: inline(r.share, percent)),
        Column("above control", above_cell),
        Column("activation density", lambda r: percent(r.activation_density, 1), leaves=2),
    ),
    ("categorise",),
    "categories",
    order=210,
    label=lambda r: r.source,
    legend="Density: the category's share of the source's summed activations. Intervals as for grades. " + LEGEND,
    blocks=_blocks,
)
