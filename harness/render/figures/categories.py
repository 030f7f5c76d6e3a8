"""The paper's figure 1: which categories the features of each source fall into, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from harness import stats
from harness.render.figures.style import Theme, clean, light_grid, new_figure, series_colour
from harness.reports.queries import CategoryRow

LAST = ("uncategorised", "failed")
"""Not categories: shown last."""


def source_names(rows: Sequence[CategoryRow]) -> list[str]:
    """The sources, in the order of the rows."""
    return list(dict.fromkeys(r.source for r in rows))


def category_order(rows: Sequence[CategoryRow]) -> list[str]:
    """Category ids, the largest mean share first; what is not a category last."""
    sources = source_names(rows)
    total: dict[str, float] = {}
    for r in rows:
        total[r.category] = total.get(r.category, 0.0) + r.share / len(sources)
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
    found = {(r.source, r.category): r for r in rows}
    names = {r.category: r.name for r in rows}
    height = 0.8 / len(sources)
    figure = new_figure(height_in=0.75 + 0.14 * len(sources) + max(0.105 * len(sources), 0.24) * len(order))
    axes = figure.subplots()
    light_grid(axes, "x")
    for number, source in enumerate(sources):
        ys = [y - 0.4 + height * (number + 0.5) for y in range(len(order))]
        bounds = [_share(found.get((source, c)), n_features[source]) for c in order]
        shares = [b[0] for b in bounds]
        spread = (
            [s - b[1] for s, b in zip(shares, bounds, strict=True)],
            [b[2] - s for s, b in zip(shares, bounds, strict=True)],
        )
        axes.barh(ys, shares, height * 0.88, color=series_colour(theme, number),
                  label=f"{clean(source, 26)} (n = {n_features[source]:,})")  # fmt: skip
        axes.errorbar(shares, ys, xerr=spread, fmt="none", ecolor=theme.ink, elinewidth=0.6)
    axes.set_yticks(range(len(order)), [clean(names[c], 19, 2) for c in order])
    axes.set_ylim(len(order) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, min(1.0, max(axes.get_xlim()[1], 0.1)))
    axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f}%")
    axes.set_xlabel("share of the source's features")
    figure.legend(loc="outside lower center", ncols=1 if len(sources) > 2 else 2, columnspacing=1.0)
    return figure


def _share(row: CategoryRow | None, n_features: int) -> tuple[float, float, float]:
    """Share, lower and upper end of its interval."""
    if row is None:
        none = stats.share(0, n_features)
        return 0.0, none.low, none.high
    low = row.share if row.share_ci_low is None else min(row.share_ci_low, row.share)
    high = row.share if row.share_ci_high is None else max(row.share_ci_high, row.share)
    return row.share, low, high
