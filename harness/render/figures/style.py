"""How figures look: two themes, colours that colour-blind readers can tell apart, type legible at 3.3 inches."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from harness.contract.cells import visible
from harness.records.base import Estimate

ThemeName = Literal["light", "dark"]


@dataclass(frozen=True)
class Drawn:
    """A figure that is ready to be written.

    Attributes:
        name: which of the catalogue's figures.
        stem: file name without suffix; one figure may be drawn several times (per source, per mode).
        title: what it is.
        caption: what one needs to know to read it: n, units, intervals.
        theme: its theme's name.
        figure: the figure; write it with `harness.render.figures.writer`.
    """

    name: str
    stem: str
    title: str
    caption: str
    theme: ThemeName
    figure: Figure


COLUMN_IN = 3.3
"""Width of a column of a two-column paper in inches. Fonts are sized for it; a wider figure is scaled."""


@dataclass(frozen=True)
class Theme:
    """Colours of one theme.

    Attributes:
        name: `light` or `dark`.
        ground: background.
        ink: text and axes.
        faint: grid, leaders, connectors.
        series: distinguishable with deuteranopia and protanopia (tested), and from the ground.
        scale: matplotlib's name of the sequential colour map whose low end is near the ground.
    """

    name: ThemeName
    ground: str
    ink: str
    faint: str
    series: tuple[str, ...]
    scale: str


THEMES: dict[ThemeName, Theme] = {
    # Paul Tol's "muted" and "light" schemes, reordered so that the first four differ most in lightness too.
    "light": Theme("light", "#ffffff", "#1c1e21", "#b9bec5",
                   ("#332288", "#cc6677", "#117733", "#88ccee", "#ddcc77", "#882255", "#44aa99", "#999933"),
                   "magma_r"),
    "dark": Theme("dark", "#14171c", "#e8eaed", "#50565f",
                  ("#77aadd", "#ee8866", "#bbcc33", "#ffaabb", "#44bb99", "#eedd88", "#aaaa00", "#99ddff"),
                  "magma"),
}  # fmt: skip
"""The themes by name."""

OTHER = {"light": "#8b9098", "dark": "#7d838c"}
"""Colours of features without a category (uncategorised, failed)."""


@contextmanager
def themed(name: ThemeName) -> Iterator[Theme]:
    """Matplotlib's settings for a theme, for as long as a figure is drawn."""
    theme = THEMES[name]
    settings: Any = {  # the stubs list all of matplotlib's keys; it checks them itself
        "axes.edgecolor": theme.ink, "axes.facecolor": "none", "axes.labelcolor": theme.ink, "axes.labelsize": 7,
        "axes.linewidth": 0.6, "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 7.5,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.unicode_minus": True,
        "figure.dpi": 150, "figure.facecolor": theme.ground, "figure.titlesize": 8, "figure.titleweight": "bold",
        "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
        "font.family": "DejaVu Sans", "font.size": 7, "grid.color": theme.faint, "grid.linewidth": 0.4,
        "hatch.linewidth": 0.4, "legend.fontsize": 6.5, "legend.frameon": False, "legend.handlelength": 1.1,
        "lines.linewidth": 1.0, "patch.linewidth": 0.0, "savefig.facecolor": theme.ground, "text.color": theme.ink,
        "text.parse_math": False, "text.usetex": False,  # `$` in a name is a dollar
        "xtick.color": theme.ink, "xtick.labelsize": 6.5, "xtick.major.size": 2.5, "xtick.major.width": 0.6,
        "ytick.color": theme.ink, "ytick.labelsize": 6.5, "ytick.major.size": 2.5, "ytick.major.width": 0.6,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield theme


def new_figure(height_in: float, width_in: float = COLUMN_IN) -> Figure:
    """An empty figure with automatic layout; not registered anywhere, so nothing needs closing."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def series_colour(theme: Theme, index: int) -> str:
    """Colour of the index-th series; beyond the palette it repeats."""
    return theme.series[index % len(theme.series)]


def category_colours(theme: Theme, categories: list[str]) -> dict[str, str]:
    """A colour per category; `uncategorised` and failures are grey."""
    named = [c for c in categories if c not in ("uncategorised", "failed")]
    colours = {c: series_colour(theme, i) for i, c in enumerate(named)}
    return {c: colours.get(c, OTHER[theme.name]) for c in categories}


def sequential(theme: Theme) -> Colormap:
    """The theme's colour map without the end that looks like the background."""
    full = matplotlib.colormaps[theme.scale]
    return LinearSegmentedColormap.from_list(f"harness-{theme.name}", [full(0.1 + 0.88 * i / 63) for i in range(64)])


def tint(colour: str, ground: str, share: float) -> tuple[float, float, float]:
    """A colour mixed with the ground; `share` 0 is the colour itself, 1 the ground."""
    red, green, blue = (c * (1 - share) + g * share for c, g in zip(to_rgb(colour), to_rgb(ground), strict=True))
    return red, green, blue


def ink_on(colour: Any) -> str:
    """Black or white, whichever is easier to read on a colour."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"


def clean(text: str, width: int, lines: int = 1) -> str:
    """Text from data for a label: control characters visible, wrapped to `width` characters, cut after `lines`."""
    rest = visible(text).strip()
    wrapped: list[str] = []
    while len(rest) > width and len(wrapped) < lines - 1:
        # After a space or a mark that joins words, unless that leaves most of the line empty.
        cut = max((m.end() for m in re.finditer(r"[\s_/:,.-]", rest[: width + 1]) if m.start() < width), default=0)
        cut = min(cut, width) if cut > width // 3 else width
        wrapped.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return "\n".join([*wrapped, rest if len(rest) <= width else rest[: width - 1].rstrip() + "…"])


def whiskers(number: Estimate) -> tuple[float, float]:
    """How far a number's interval reaches below and above it; 0 where it is unbounded."""
    below, above = number.value - number.low, number.high - number.value
    return max(below, 0.0) if math.isfinite(below) else 0.0, max(above, 0.0) if math.isfinite(above) else 0.0


def light_grid(axes: Axes, axis: Literal["x", "y", "both"]) -> None:
    """A faint grid behind the data."""
    axes.grid(True, axis=axis)
    axes.set_axisbelow(True)
