"""The paper's figure 3 in a terminal: KL by projection and layer, one colour scale for cells and whole layers.

Few layers: numbers on coloured ground. Many: one glyph per layer, whose height says the same as its colour, so that it
reads without colour too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.reports.cells import significant, visible

MAX_NUMBERED_LAYERS = 10
"""Up to so many layers, cells show their number."""

_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_BARS = "▁▂▃▄▅▆▇█"
_SCALE = (
    (0.0, (20, 11, 52)),
    (0.3, (101, 21, 110)),
    (0.55, (195, 57, 76)),
    (0.8, (246, 145, 15)),
    (1.0, (250, 240, 130)),
)
_LAYER = "whole layer"
_FLOOR = "null floor"


def heatmap(rows: Sequence[Any]) -> RenderableType | None:
    """The grid of `queries.components` rows, one per mode; None without single components."""
    grids = [grid for mode in dict.fromkeys(r.mode for r in rows) if (grid := _grid(rows, mode)) is not None]
    return Group(*grids) if grids else None


def _grid(rows: Sequence[Any], mode: str) -> RenderableType | None:
    """One mode's grid. Components of a rank above 1 are shown by their largest."""
    cells: dict[tuple[str, int], float] = {}
    floors: dict[int, float] = {}
    sliced = False
    for r in rows:
        if r.mode == mode and r.layer is not None and (r.scope == "component" or r.scope == "layer"):
            place = (r.projection if r.scope == "component" else _LAYER, r.layer)
            sliced |= place in cells
            cells[place] = max(cells.get(place, r.kl_nats), r.kl_nats)
            if r.null_floor_nats is not None and r.method == "exact":
                floors[r.layer] = r.null_floor_nats
    names = sorted({name for name, _ in cells} - {_LAYER}, key=lambda n: (projection_rank(n), n))
    if not names:
        return None
    layers = sorted({layer for _, layer in cells})
    if any(name == _LAYER for name, _ in cells):
        names = [_LAYER, *names]
    top = max(cells.values()) or 1.0
    numbered = len(layers) <= MAX_NUMBERED_LAYERS
    title = f"KL(adapter || ablated) in nats per token, by layer (set to {mode}; brightest = {significant(top)})"
    if sliced:
        title += "; of each matrix's rank-one slices, the largest"
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    if numbered:
        for layer in layers:
            table.add_column(f"L{layer}", justify="right", no_wrap=True)
    else:
        table.add_column(Text(_ruler(layers)), no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    for name in names:
        values = [cells.get((name, layer)) for layer in layers]
        known = [v for v in values if v is not None]
        noise = [v is not None and v < floors.get(layer, 0.0) for v, layer in zip(values, layers, strict=True)]
        pairs = list(zip(values, noise, strict=True))
        strip = [_number(v, top, low) for v, low in pairs] if numbered else [_strip(pairs, top)]
        table.add_row(Text(visible(name)), *strip, significant(sum(known) / len(known)))
    if floors:
        own = [Text(f" {significant(floors.get(layer), 2)} ") for layer in layers] if numbered else [Text("")]
        table.add_row(Text(_FLOOR), *own, significant(sum(floors.values()) / len(floors)))
    return Group(Text(title, style="bold"), table)


def projection_rank(name: str) -> int:
    """Place of a projection in the paper's order (q, k, v, o, gate, up, down); others after these."""
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _number(value: float | None, top: float, below_floor: bool) -> Text:
    if value is None:
        return Text("-")
    red, green, blue = _colour(value / top)
    ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 110 else "white"
    return Text(f"{'<' if below_floor else ' '}{significant(value, 2)} ", style=f"{ink} on rgb({red},{green},{blue})")


def _strip(values: Sequence[tuple[float | None, bool]], top: float) -> Text:
    strip = Text()
    for value, below_floor in values:
        if value is None or below_floor:
            strip.append(" " if value is None else "<")
            continue
        share = min(max(value / top, 0.0), 1.0)
        red, green, blue = _colour(0.35 + 0.65 * share)  # the scale's dark end would vanish on a black terminal
        strip.append(_BARS[round(share * (len(_BARS) - 1))], style=f"rgb({red},{green},{blue})")
    return strip


def _ruler(layers: Sequence[int]) -> str:
    """Layer numbers above every tenth column."""
    marks = [" "] * len(layers)
    for i in range(0, len(layers), 10):
        label = str(layers[i])
        if i + len(label) <= len(layers):
            marks[i : i + len(label)] = label
    return "".join(marks)


def _colour(share: float) -> tuple[int, int, int]:
    """Colour of a share between 0 and 1: dark violet, red, orange, yellow; its lightness rises all the way."""
    share = min(max(share, 0.0), 1.0)
    for (low, first), (high, second) in pairwise(_SCALE):
        if share <= high:
            t = (share - low) / (high - low)
            red, green, blue = (round(a + t * (b - a)) for a, b in zip(first, second, strict=True))
            return red, green, blue
    return _SCALE[-1][1]
