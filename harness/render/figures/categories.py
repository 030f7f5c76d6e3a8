"""The paper's figure 1: which categories the features of each source fall into, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from harness import stats
from harness.render.figures.style import Theme, clean, light_grid, new_figure, series_colour, whiskers
from harness.reports.categories import CategoryRow

LAST = ("uncategorised", "failed")
"""Ids that stand for no category; they are shown last."""


def source_names(rows: Sequence[CategoryRow]) -> list[str]:
    """The sources, in the order of the rows."""
    return list(dict.fromkeys(r.source for r in rows))


def category_order(rows: Sequence[CategoryRow]) -> list[str]:
    """Category ids, the largest mean share first; those that stand for no category last."""
    sources = source_names(rows)
    total: dict[str, float] = {}
    for r in rows:
        total[r.category] = total.get(r.category, 0.0) + r.share.value / len(sources)
    return sorted(total, key=lambda c: (c in LAST, -total[c], c))


def categories_figure(rows: Sequence[CategoryRow], theme: Theme) -> Figure:
    """Horizontal bars per category, one per source, with 95 % intervals.

    A category that a source has no feature in is a share of 0 with its interval, not a gap.

    Args:
        rows: of one interpreter.
        theme: colours.
    """
    sources, order = source_names(rows), category_order(rows)
    n_features = {s: sum(r.n_features for r in rows if r.source == s) for s in sources}
    by_source = {(r.source, r.category): r for r in rows}
    names = {r.category: r.name for r in rows}
    height = 0.8 / len(sources)
    figure = new_figure(height_in=0.75 + 0.14 * len(sources) + max(0.105 * len(sources), 0.24) * len(order))
    axes = figure.subplots()
    light_grid(axes, "x")
    for number, source in enumerate(sources):
        ys = [y - 0.4 + height * (number + 0.5) for y in range(len(order))]
        shares = [_share(by_source.get((source, c)), n_features[source]) for c in order]
        values = [share.value for share in shares]
        axes.barh(ys, values, height * 0.88, color=series_colour(theme, number),
                  label=f"{clean(source, 26)} (n = {n_features[source]:,})")  # fmt: skip
        axes.errorbar(
            values,
            ys,
            xerr=list(zip(*map(whiskers, shares), strict=True)),
            fmt="none",
            ecolor=theme.ink,
            elinewidth=0.6,
        )
    axes.set_yticks(range(len(order)), [clean(names[c], 19, 2) for c in order])
    axes.set_ylim(len(order) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, min(1.0, max(axes.get_xlim()[1], 0.1)))
    axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f}%")
    axes.set_xlabel("share of the source's features")
    figure.legend(loc="outside lower center", ncols=1 if len(sources) > 2 else 2, columnspacing=1.0)
    return figure


def _share(row: CategoryRow | None, n_features: int) -> stats.Estimate:
    return stats.share(0, n_features) if row is None else row.share
