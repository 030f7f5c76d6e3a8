"""The paper's figure 3: what switching off layers (bars) and single components (heat map) does.

The heat map has a scale of its own, logarithmic where its cells span decades: whole layers would drown them.
Cells below the null floor, the KL that rounding noise alone makes at their layer, are hatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from harness.contract.cells import significant
from harness.render.figures.style import Theme, clean, light_grid, new_figure, sequential, series_colour
from harness.reports.common.ablations import per_token
from harness.reports.common.heat import Scale
from harness.reports.components import ComponentRow, projection_rank

MOST_TICKS = 9
"""Up to so many layers are all numbered; of more layers, some."""

LOGARITHMIC_TICKS = 5


@dataclass(frozen=True)
class Grid:
    """KL in nats per token by projection and layer, and of whole layers.

    Attributes:
        layers: layer numbers, ascending.
        projections: rows of the heat map, from the top.
        cells: [projection, layer]; NaN where nothing was switched off. Above rank 1, the largest of a matrix.
        bars: [layer]; NaN likewise.
        intervals: [2, layer], distances of the 95 % interval's ends below and above the bar; 0 where there is none.
        below_floor: [projection, layer]; whether rounding noise alone makes a KL as large as that of the cell.
    """

    layers: list[int]
    projections: list[str]
    cells: NDArray[np.float64]
    bars: NDArray[np.float64]
    intervals: NDArray[np.float64]
    below_floor: NDArray[np.bool_]


def component_grid(rows: Sequence[ComponentRow], mode: str) -> Grid | None:
    """One mode's rows as a grid; None where no single component was switched off."""
    of_mode = [r for r in rows if r.mode == mode and r.layer is not None]
    singles = [r for r in of_mode if r.scope == "component" and r.projection is not None]
    if not singles:
        return None
    layers = sorted({r.layer for r in of_mode if r.layer is not None and r.scope in ("layer", "component")})
    projections = sorted({str(r.projection) for r in singles}, key=lambda p: (projection_rank(p), p))
    column, line = {x: i for i, x in enumerate(layers)}, {p: i for i, p in enumerate(projections)}
    cells = np.full((len(projections), len(layers)), np.nan)
    below_floor = np.ones(cells.shape, dtype=bool)
    bars, intervals = np.full(len(layers), np.nan), np.zeros((2, len(layers)))
    for r in singles:
        place = line[str(r.projection)], column[int(r.layer or 0)]
        cells[place] = np.fmax(cells[place], r.kl_nats.value)
        below_floor[place] &= bool(r.below_floor)
    for r in (r for r in of_mode if r.scope == "layer"):
        i = column[int(r.layer or 0)]
        kl = r.kl_nats
        bars[i] = kl.value
        if kl.bounded:
            intervals[:, i] = max(kl.value - kl.low, 0), max(kl.high - kl.value, 0)
    return Grid(layers, projections, cells, bars, intervals, below_floor & np.isfinite(cells))


def components_figure(rows: Sequence[ComponentRow], theme: Theme, *, mode: str) -> Figure | None:
    """Layer bars with intervals over the layers x projections heat map; None where the mode has no single component."""
    grid = component_grid(rows, mode)
    if grid is None:
        return None
    figure = new_figure(height_in=2.75)
    bars, cells = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
    scale = Scale.over(float(v) for v in grid.cells.ravel() if np.isfinite(v))
    norm = (LogNorm if scale.logarithmic else Normalize)(scale.low, scale.high, clip=True)
    colours = sequential(theme)
    _bars(bars, grid, theme)
    edges = np.arange(len(grid.layers) + 1) - 0.5
    mesh = cells.pcolormesh(edges, np.arange(len(grid.projections) + 1) - 0.5, grid.cells, norm=norm, cmap=colours)
    mesh.set_gid("heat-map")
    for line, column in np.argwhere(grid.below_floor):
        noise = Rectangle((column - 0.5, line - 0.5), 1, 1, hatch="////", fill=False, edgecolor=theme.ink, linewidth=0)
        noise.set_gid(f"below-floor-{grid.projections[line]}-{grid.layers[column]}")
        cells.add_patch(noise)
    cells.set_facecolor("none")
    cells.set_ylim(len(grid.projections) - 0.5, -0.5)
    cells.set_yticks(range(len(grid.projections)), [clean(p.removesuffix("_proj"), 12) for p in grid.projections])
    step = -(-len(grid.layers) // MOST_TICKS)
    places = range(0, len(grid.layers), step)
    cells.set_xticks(list(places), [str(grid.layers[i]) for i in places])
    cells.set_xlabel("layer")
    cells.tick_params(axis="y", length=0)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=[bars, cells], fraction=0.045, pad=0.02, aspect=32)
    bar.set_label(f"KL of a component ({per_token(rows[0].segment)})")
    bar.outline.set_visible(False)
    if scale.logarithmic:
        ends = np.geomspace(scale.low, scale.high, LOGARITHMIC_TICKS)
        bar.set_ticks(list(ends), labels=[significant(float(v), 2) for v in ends])
        bar.minorticks_off()
    else:
        bar.ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    return figure


def _bars(axes: Axes, grid: Grid, theme: Theme) -> None:
    measured = np.flatnonzero(np.isfinite(grid.bars))
    heights = grid.bars[measured]
    light_grid(axes, "y")
    bars = axes.bar(measured, heights, width=0.86, color=series_colour(theme, 0), edgecolor=theme.ink, linewidth=0.3)
    for i, bar in zip(measured, bars, strict=True):
        bar.set_gid(f"layer-bar-{grid.layers[i]}")
    if grid.intervals.any():
        axes.errorbar(measured, heights, yerr=grid.intervals[:, measured], fmt="none", ecolor=theme.ink, elinewidth=0.6)
    if not len(measured):
        axes.text(0.5, 0.5, "no whole layer was switched off", transform=axes.transAxes, ha="center", va="center")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("whole layer")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    axes.tick_params(axis="x", length=0)
