"""A heat map of KLs by name and layer, for terminals of any width and for the dashboard.

The cells have a scale of their own: whole layers and noise floors, which are larger and smaller by decades, do not
count. Where the cells span decades, the scale is logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.contract.cells import significant, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

MAX_NUMBERED_LAYERS = 10
"""Up to so many layers, cells show their number where there is room."""

LOGARITHMIC_FROM = 30.0
"""Largest over smallest cell from which the scale is logarithmic."""

MOST_DECADES = 4.0
"""Decades of a logarithmic scale; what is smaller is as dark as its low end."""

_NUMBER = 10
"""Characters of a numbered cell with the space beside it."""

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = (
    (0.0, (20, 11, 52)),
    (0.3, (101, 21, 110)),
    (0.55, (195, 57, 76)),
    (0.8, (246, 145, 15)),
    (1.0, (250, 240, 130)),
)


@dataclass(frozen=True)
class Scale:
    """From a value to a share of the colours between 0 and 1."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Iterable[float | None]) -> Scale:
        """The scale of these cells: linear from 0, or logarithmic between the least and the largest above 0."""
        above = [v for v in values if v is not None and v > 0]
        if not above:
            return cls(0.0, 1.0, False)
        low, high = min(above), max(above)
        if high < LOGARITHMIC_FROM * low:
            return cls(0.0, high, False)
        return cls(max(low, high / 10**MOST_DECADES), high, True)

    def share(self, value: float) -> float:
        """Share of the way from the low to the high end."""
        if self.logarithmic:
            ratio = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            ratio = (value - self.low) / (self.high - self.low)
        return min(max(ratio, 0.0), 1.0)

    def in_words(self) -> str:
        """E.g. `brightest 0.068` or `from 3e-05 to 0.068, logarithmic`."""
        if not self.logarithmic:
            return f"brightest {significant(self.high, 2)}"
        return f"colours from {significant(self.low, 2)} to {significant(self.high, 2)}, logarithmic"


@dataclass(frozen=True)
class HeatRow:
    """Values of one name, a column each; `below_floor` marks those that are rounding noise.

    `apart`: not of the map's scale, but of its own; `plain`: without colour.
    """

    name: str
    values: tuple[float | None, ...]
    below_floor: tuple[bool, ...] = ()
    apart: bool = False
    plain: bool = False

    @property
    def mean(self) -> float:
        """Over what was measured."""
        measured = [v for v in self.values if v is not None]
        return sum(measured) / len(measured)


@dataclass(frozen=True)
class HeatMap:
    """Rows over layers. Few layers: numbers on coloured ground. Many, or a narrow terminal: one glyph per layer, whose
    height says the same as its colour, so that it reads without colour too; layers that do not fit go on below."""

    title: str
    layers: tuple[int, ...]
    rows: tuple[HeatRow, ...]

    @property
    def scale(self) -> Scale:
        """Of the cells."""
        return Scale.over(v for row in self.rows if not (row.apart or row.plain) for v in row.values)

    def heading(self) -> str:
        """The title with the scale."""
        apart = [row.name for row in self.rows if row.apart]
        return f"{self.title}; {self.scale.in_words()}" + (f"; {', '.join(apart)}: own scale" if apart else "") + ")"

    def as_data(self) -> dict[str, Any]:
        """For the dashboard: title, layers, and of each row its cells with their share of the colours."""
        return {
            "title": self.heading(),
            "layers": list(self.layers),
            "rows": [
                {"name": visible(row.name), "mean": significant(row.mean, 2), "cells": list(self._cells(row))}
                for row in self.rows
            ],
        }

    def _cells(self, row: HeatRow) -> Iterator[dict[str, Any]]:
        scale = Scale.over(row.values) if row.apart else self.scale
        marks = row.below_floor or (False,) * len(row.values)
        for value, below in zip(row.values, marks, strict=True):
            shown = None if value is None else ("<" if below else "") + significant(value, 2)
            share = None if value is None or row.plain else scale.share(value)
            yield {"text": shown, "share": share, "below_floor": below}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The map in the width that there is."""
        from rich.text import Text

        from harness.contract.wrapping import wrapped

        yield Text("\n".join(wrapped(self.heading(), options.max_width)), style="bold", no_wrap=True)
        yield Text("\n").join(self.as_lines(options.max_width))

    def as_lines(self, width: int) -> list[Text]:
        """The map without its heading."""
        label = max(len(visible(row.name)) for row in self.rows)
        room = width - label - 2 - _NUMBER
        if len(self.layers) <= MAX_NUMBERED_LAYERS and len(self.layers) * _NUMBER <= room:
            return list(self._numbered(label))
        return list(self._strips(label, max(room, 10)))

    def _numbered(self, label: int) -> Iterator[Text]:
        from rich.text import Text

        head = "".join(f"L{layer}".rjust(_NUMBER - 2) + "  " for layer in self.layers)
        yield Text(f"{'':{label}}  {'mean':>{_NUMBER - 2}}  {head}".rstrip(), no_wrap=True)
        for row in self.rows:
            line = Text(f"{visible(row.name):{label}}  {significant(row.mean, 2):>{_NUMBER - 2}}  ", no_wrap=True)
            for cell in self._cells(row):
                shown = cell["text"] or "-"
                style = "" if cell["share"] is None else _ground(cell["share"])
                line.append(f"{shown:>{_NUMBER - 2}} ", style=style)
                line.append(" ")
            yield line

    def _strips(self, label: int, room: int) -> Iterator[Text]:
        from rich.text import Text

        for start in range(0, len(self.layers), room):
            some = slice(start, start + room)
            yield Text(f"{'':{label}}  {'mean':>{_NUMBER - 2}}  {_ruler(self.layers[some])}".rstrip(), no_wrap=True)
            for row in self.rows:
                if row.plain:
                    continue
                line = Text(f"{visible(row.name):{label}}  {significant(row.mean, 2):>{_NUMBER - 2}}  ", no_wrap=True)
                for cell in list(self._cells(row))[some]:
                    line.append(*_glyph(cell))
                yield line


def _glyph(cell: dict[str, Any]) -> tuple[str, str]:
    if cell["text"] is None or cell["below_floor"]:
        return ("<" if cell["below_floor"] else " "), ""
    # The colours' dark end would vanish on a black terminal.
    red, green, blue = colour(0.35 + 0.65 * cell["share"])
    return _BARS[round(cell["share"] * (len(_BARS) - 1))], f"rgb({red},{green},{blue})"


def _ground(share: float) -> str:
    red, green, blue = colour(share)
    ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 110 else "white"
    return f"{ink} on rgb({red},{green},{blue})"


def _ruler(layers: Sequence[int]) -> str:
    """Layer numbers above every tenth column."""
    marks = [" "] * len(layers)
    for i in range(0, len(layers), 10):
        label = str(layers[i])
        if i + len(label) <= len(layers):
            marks[i : i + len(label)] = label
    return "".join(marks)


def colour(share: float) -> tuple[int, int, int]:
    """Colour of a share between 0 and 1: dark violet, red, orange, yellow; its lightness rises all the way."""
    share = min(max(share, 0.0), 1.0)
    for (low, first), (high, second) in pairwise(_COLOURS):
        if share <= high:
            t = (share - low) / (high - low)
            red, green, blue = (round(a + t * (b - a)) for a, b in zip(first, second, strict=True))
            return red, green, blue
    return _COLOURS[-1][1]
