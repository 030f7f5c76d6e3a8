"""The reports on dictionaries: scores with the FVU-L0 frontier, and what single latents do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from harness.reports.cells import Cell, count, fixed, percent, short, significant, text, visible, with_interval

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 60, 12
_MARKS = "abcdefghijklmnopqrstuvwxyz"
TOP_LATENTS = 16
"""Latents listed per dictionary; JSON and CSV have all."""


def name_cell(row: Any) -> Cell:
    """Name and target, and whether it is on the frontier; the cell of a grid on a line of its own."""
    plugin, _, cell = row.name.partition("@")
    return tuple(filter(None, (plugin, cell or f"k={row.k:g}", "frontier" if row.frontier else "")))


def latents_cell(row: Any) -> Cell:
    """Size, how many are alive, and how dense those are: a bar per half decade from 1e-6 to 1."""
    size = f"{count(row.n_latents)}{' signed' if row.signed else ''}"
    counts = [int(n) for n in (row.density_histogram or "").split()]
    most = max(counts, default=0)
    bars = "".join("·" if n == 0 else _BARS[(8 * n - 1) // most] for n in counts) if most else ""
    return tuple(filter(None, (size, f"{count(row.n_alive)} alive", bars)))


def recovered_cell(row: Any) -> Cell:
    """Share of the adapter's KL recovered over its interval, and the KL that is left."""
    if row.kl_recovered is None:
        return text(None)
    cell = with_interval(row.kl_recovered, row.kl_recovered_ci_low, row.kl_recovered_ci_high, percent)
    return (*((cell,) if isinstance(cell, str) else cell), f"{significant(row.kl_splice_nats, 2)} nats")


def two_digits(value: float | None) -> str:
    """With two decimals."""
    return fixed(value, 2)


def two_significant(value: float | None) -> str:
    """With two significant digits."""
    return significant(value, 2)


def frontier(rows: Sequence[Any]) -> RenderableType | None:
    """FVU over L0, a letter per dictionary, those on the frontier bold; None where all have the same target."""
    if len({r.k for r in rows}) < 2:
        return None
    xs, ys = [r.l0 for r in rows], [r.fvu for r in rows]
    low_x, high_x, high_y = 0.0, max(xs) * 1.05 or 1.0, max(min(max(ys), 1.5) * 1.05, 1e-9)
    grid: dict[tuple[int, int], int] = {}
    for i, row in enumerate(rows):
        x = round((row.l0 - low_x) / (high_x - low_x) * (_WIDTH - 1))
        y = round(min(row.fvu, high_y) / high_y * (_HEIGHT - 1))
        while (x, y) in grid and x < _WIDTH - 1:
            x += 1
        grid[x, y] = i
    drawn = Text("FVU\n", style="dim")
    for line in range(_HEIGHT - 1, -1, -1):
        label = f"{high_y * line / (_HEIGHT - 1):.2f}" if line % 3 == 2 or line == 0 else ""
        drawn.append(f"{label:>5} │", style="dim")
        for x in range(_WIDTH):
            place = grid.get((x, line))
            if place is None:
                drawn.append(" ")
            else:
                drawn.append(_mark(place), style=_style(rows[place]))
        drawn.append("\n")
    drawn.append("      └" + "─" * _WIDTH + "\n", style="dim")
    drawn.append(f"       0{f'{high_x:.3g} latents per token (L0)':>{_WIDTH - 1}}\n", style="dim")
    for i, row in enumerate(rows):
        drawn.append(f"  {_mark(i)} {visible(row.name)}", style=_style(row))
    return drawn


def latent_groups(rows: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Title and rows per dictionary, largest effects first."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    return [
        (
            f"{source}: {len(own[:TOP_LATENTS])} of {len(own)} latents switched off, largest effect first",
            own[:TOP_LATENTS],
        )
        for source, own in groups.items()
    ]


def explanation_cell(row: Any) -> Cell:
    """What an interpreter said of it."""
    return short(row.explanation, 60)


def effect_cell(row: Any) -> Cell:
    """KL and its interval on one line."""
    cell = with_interval(row.kl_nats, row.kl_ci_low, row.kl_ci_high, significant)
    return cell if isinstance(cell, str) else " ".join(cell)


def _style(row: Any) -> str:
    return "bold green" if row.frontier else ""


def _mark(index: int) -> str:
    return _MARKS[index] if index < len(_MARKS) else "*"
