"""Dictionaries by sparsity and faithfulness: FVU against L0 on held-out documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.render.figures.style import Theme, clean, light_grid, new_figure, series_colour, whiskers
from harness.reports.dictionaries import DictionaryRow

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
MOST_NAMED = 16
"""Dictionaries with a legend entry each; beyond it only the first ones are named."""


def frontier_figure(rows: Sequence[DictionaryRow], theme: Theme) -> Figure:
    """FVU (lower is better) with 95 % intervals over documents against L0, the mean number of active latents.

    Both axes are logarithmic where the values span more than a factor of ten.
    """
    named = rows[:MOST_NAMED]
    figure = new_figure(height_in=2.0 + 0.115 * -(-len(named) // 2))
    axes = figure.subplots()
    light_grid(axes, "both")
    for number, r in enumerate(rows):
        below, above = whiskers(r.fvu)
        axes.errorbar([r.l0.value], [r.fvu.value], yerr=([below], [above]), fmt=_MARKERS[number % len(_MARKERS)],
                      color=series_colour(theme, number), ms=4, elinewidth=0.8,
                      label=clean(r.name, 27) if number < MOST_NAMED else None,
                      )  # fmt: skip
    _scale(axes, "x", [r.l0.value for r in rows])
    _scale(axes, "y", [r.fvu.value for r in rows])
    axes.set_xlabel("L0 (active latents per token)")
    axes.set_ylabel("FVU (variance unexplained)")
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.0, handletextpad=0.2, fontsize=6)
    return figure


def _scale(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Logarithmic where the values span more than a factor of ten, else from zero."""
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set(**{f"{which}scale": "log"})
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        axes.set(**{f"{which}lim": (0, 1.12 * max([*values, 1e-9]))})
