"""The paper's figure 2: activation density by category (inner ring) and subcategory (outer ring)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.render.figures.style import Theme, category_colours, clean, ink_on, new_figure, tint

LABELLED_SHARE = 0.02
"""Subcategories smaller than this have no label of their own."""

MOST_LABELS = 11
"""Labels on either side; more would overlap. The largest are kept."""

_RADIUS, _WIDTH = 1.0, 0.4
_LINE = 0.185  # height of a label in units of the radius


@dataclass(frozen=True)
class Slice:
    """A part of a source's summed activations.

    Attributes:
        category: its id.
        name: for people.
        density: share of the source's summed activations.
        subcategory: name within the category; None where the category is not divided.
    """

    category: str
    name: str
    density: float
    subcategory: str | None = None


def donut_figure(
    slices: Sequence[Slice], theme: Theme, *, source: str, n_features: int, order: Sequence[str] = ()
) -> Figure | None:
    """A nested donut with a legend; None where nothing was active.

    Args:
        slices: undivided categories, or all their subcategories.
        theme: colours.
        source: whose activations; stands in the hole.
        n_features: of the source.
        order: categories that share colours with other figures; colours go by it, slices by size.
    """
    total = sum(s.density for s in slices)
    if total <= 0:
        return None
    names = {s.category: s.name for s in slices}
    sums = {c: sum(s.density for s in slices if s.category == c) / total for c in names}
    fixed, order = order, sorted(sums, key=lambda c: (c == "uncategorised", -sums[c], c))
    colours = category_colours(theme, list(dict.fromkeys([*fixed, *order])))
    outer = [s for c in order for s in sorted((s for s in slices if s.category == c), key=lambda s: -s.density)]
    divided = any(s.subcategory for s in slices)
    figure = new_figure(height_in=(2.1 if divided else 1.9) + 0.115 * -(-len(order) // 2))
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.axis("off")
    _ring(axes, [sums[c] for c in order], [colours[c] for c in order], 1 - _WIDTH, _WIDTH, theme, order)
    if divided:
        shades = [tint(colours[s.category], theme.ground, 0.25 + 0.35 * (i % 2)) for i, s in enumerate(outer)]
        _ring(axes, [s.density / total for s in outer], shades, _RADIUS + 0.03, 0.24, theme)
        _labels(axes, [(s.subcategory or s.name, s.density / total) for s in outer], theme)
    axes.text(
        0, 0, f"{clean(source, 12, 3)}\nn = {n_features:,}", ha="center", va="center", fontsize=6 if divided else 7
    )
    axes.set_xlim(-2.75, 2.75) if divided else axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.6, 1.6) if divided else axes.set_ylim(-1.08, 1.08)
    handles = [axes.bar(0, 0, color=colours[c], label=f"{clean(names[c], 20)}  {100 * sums[c]:.0f}%") for c in order]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.0, handletextpad=0.5)
    return figure


def _ring(
    axes: Axes, shares: Sequence[float], colours: Sequence[Any], inner: float, width: float, theme: Theme,
    ids: Sequence[str] = (),
) -> None:  # fmt: skip
    """Wedges clockwise from the top; with ids, shares of 5 % and more are written on them."""
    wedges = axes.pie(shares, colors=colours, radius=inner + width, startangle=90, counterclock=False,
                      wedgeprops={"width": width, "edgecolor": theme.ground, "linewidth": 0.6})[0]  # fmt: skip
    for i, (wedge, share) in enumerate(zip(wedges, shares, strict=True)):
        wedge.set_gid(f"{'category' if ids else 'subcategory'}-{i}")
        if ids and share >= 0.05:
            angle = math.radians((wedge.theta1 + wedge.theta2) / 2)
            middle = inner + width / 2
            axes.text(middle * math.cos(angle), middle * math.sin(angle), f"{100 * share:.0f}%", ha="center",
                      va="center", fontsize=6, color=ink_on(wedge.get_facecolor()[:3]))  # fmt: skip


def _labels(axes: Axes, parts: Sequence[tuple[str, float]], theme: Theme) -> None:
    """Names beside the ring with leaders, never closer than a line."""
    rim = _RADIUS + 0.27
    sides: dict[int, list[tuple[float, float, str, float]]] = {1: [], -1: []}
    start = 0.0
    for name, share in parts:
        angle = math.pi / 2 - 2 * math.pi * (start + share / 2)
        start += share
        side = 1 if math.cos(angle) >= 0 else -1
        if share >= LABELLED_SHARE:
            sides[side].append((math.sin(angle), math.cos(angle), name, share))
    for side, of_side in sides.items():
        largest = sorted(sorted(of_side, key=lambda x: -x[3])[:MOST_LABELS], key=lambda x: -x[0])
        for (sin, cos, name, _), y in zip(largest, spread([1.35 * x[0] for x in largest], _LINE, 1.5), strict=True):
            axes.plot([rim * cos, (rim + 0.08) * cos, side * 1.52, side * 1.58], [rim * sin, (rim + 0.08) * sin, y, y],
                      color=theme.faint, lw=0.5)  # fmt: skip
            axes.text(side * 1.62, y, clean(name, 20), ha="left" if side > 0 else "right", va="center",
                      fontsize=5.5)  # fmt: skip


def spread(wanted: Sequence[float], gap: float, limit: float) -> list[float]:
    """Positions as close as possible to the wanted ones (descending), at least `gap` apart, within ±`limit`.

    Where they cannot all fit, the gap gives way evenly.
    """
    n = len(wanted)
    if n == 0:
        return []
    gap = min(gap, 2 * limit / max(n - 1, 1))
    # Pool adjacent violators: groups of labels that touch are centred on the mean of what they wanted.
    groups: list[list[float]] = []  # [sum of (wanted + offset), size]
    for i, w in enumerate(wanted):
        groups.append([w + i * gap, 1.0])
        while len(groups) > 1 and groups[-1][0] / groups[-1][1] > groups[-2][0] / groups[-2][1]:
            total, size = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += size
    places = [g[0] / g[1] for g in groups for _ in range(int(g[1]))]
    # Shifted places lie in [-limit + (n - 1) gap, limit]: clipping keeps their order.
    return [min(max(p, -limit + (n - 1) * gap), limit) - i * gap for i, p in enumerate(places)]
