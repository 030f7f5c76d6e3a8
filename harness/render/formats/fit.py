"""Tables in a width. No word and no number is broken: there is less to see, or it stands on more lines.

Where a table is too wide, intervals go below their estimates; then columns leave, empty ones first, the others in the
order of `Column.leaves`; then each row becomes a block of lines. Terminals count characters, LaTeX counts points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.contract.cells import ABSENT, lines
from harness.contract.report import Block, Report
from harness.contract.wrapping import width_of, words, wrapped

READABLE = 14
"""Characters on a line below which long text is no longer read with ease."""

GAP = 2
"""Characters between columns."""

_INTERVAL = re.compile(r" (?=\[[^\]]*\]$)")


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column as text.

    Attributes:
        header: its head.
        cells: of each row, the lines of its cell.
        justify: which side the text stands on.
        wrap: whether lines may be wrapped between words; what is not, stays on its line.
        ratio: share of the spare width.
        leaves: see `Column`.
    """

    header: str
    cells: Sequence[tuple[str, ...]]
    justify: Literal["left", "right"] = "left"
    wrap: bool = False
    ratio: int = 1
    leaves: int | None = None


@dataclass(frozen=True)
class Fitted:
    """The columns that fit, and the width of each; `left_out` has the headers of those that do not.

    Without columns nothing does: rows are to be blocks.
    """

    columns: tuple[TextColumn, ...]
    widths: tuple[int, ...]
    left_out: tuple[str, ...] = ()


def text_columns(report: Report[Any], block: Block[Any]) -> list[TextColumn]:
    """The columns of a report's block as text."""
    return [
        TextColumn(c.header, [lines(c.cell(row)) for row in block.rows], c.justify, c.wrap, c.ratio or 1, c.leaves)
        for c in report.columns
    ]


def fit(
    columns: Sequence[TextColumn],
    width: int,
    *,
    measure: Callable[[str], int] = width_of,
    gap: int = GAP,
    readable: int = READABLE,
) -> Fitted:
    """Choose columns and widths.

    Args:
        columns: of the table.
        width: of the whole table.
        measure: width of a text in the same unit.
        gap: between columns.
        readable: width below which text that may be wrapped is not made narrower.
    """

    def needed(chosen: Sequence[TextColumn]) -> int:
        return sum(_narrowest(c, measure, readable) for c in chosen) + gap * (len(chosen) - 1)

    kept = all_of_them = list(columns)
    if needed(kept) > width:
        all_of_them = [_interval_below(c) for c in columns]
        kept = list(all_of_them)
    empty = [c for c in kept[1:] if all(text in ("", ABSENT) for cell in c.cells for text in cell)]
    leaving = [*empty, *sorted((c for c in kept if c.leaves and c not in empty), key=lambda c: c.leaves or 0)]
    while needed(kept) > width and leaving:
        kept.remove(leaving.pop(0))
    if needed(kept) > width:
        return Fitted((), ())
    left_out = tuple(c.header for c in all_of_them if c not in kept)
    return Fitted(tuple(kept), _widths(kept, width - needed(kept), measure, readable), left_out)


def printed(fitted: Fitted) -> tuple[list[str], list[str]]:
    """The lines of the head and of the body of a table that fits."""
    columns, widths = fitted.columns, fitted.widths
    head = [wrapped(c.header, w) for c, w in zip(columns, widths, strict=True)]
    body = [
        [part for line in c.cells[i] for part in (wrapped(line, w) if c.wrap else (line,))]
        for i in range(len(columns[0].cells))
        for c, w in zip(columns, widths, strict=True)
    ]
    n = len(columns)
    rows = [body[i : i + n] for i in range(0, len(body), n)]
    return list(_side_by_side(head, fitted)), [line for row in rows for line in _side_by_side(row, fitted)]


def _side_by_side(cells: Sequence[Sequence[str]], fitted: Fitted) -> Iterator[str]:
    for i in range(max(len(cell) for cell in cells)):
        parts = []
        for cell, column, width in zip(cells, fitted.columns, fitted.widths, strict=True):
            text = cell[i] if i < len(cell) else ""
            space = " " * (width - width_of(text))
            parts.append(space + text if column.justify == "right" else text + space)
        yield (" " * GAP).join(parts).rstrip()


def as_blocks(
    columns: Sequence[TextColumn], width: int, left_out: Collection[str] = ("", ABSENT)
) -> Iterator[tuple[list[str], list[str]]]:
    """Each row as the lines of its first cell, then those of header and cell of the others, but of cells left out."""
    first, others = columns[0], columns[1:]
    label = max((width_of(c.header) for c in others), default=0)
    for i, title in enumerate(first.cells):
        body: list[str] = []
        for c in others:
            cell = one_line(c.cells[i])
            if cell in left_out:
                continue
            head = f"  {c.header}{' ' * (label - width_of(c.header))}  "
            room = width - width_of(head)
            if max(map(width_of, words(cell)), default=0) > room:
                body += [head.rstrip(), *(f"    {part}" for part in wrapped(cell, width - 4))]
            else:
                first_part, *rest = wrapped(cell, room)
                body += [head + first_part, *(" " * width_of(head) + part for part in rest)]
        yield wrapped(one_line(title), width), body


def one_line(cell: Sequence[str]) -> str:
    """The lines of a cell after each other; an interval follows its estimate."""
    first, *others = [part for part in cell if part] or [""]
    return first + "".join(f"{' ' if part.startswith('[') else ', '}{part}" for part in others)


def _narrowest(column: TextColumn, measure: Callable[[str], int], readable: int) -> int:
    head = max(map(measure, words(column.header)), default=0)
    all_lines = [line for cell in column.cells for line in cell]
    if not column.wrap:
        return max(head, *map(measure, all_lines), 0)
    longest_word = max((measure(word) for line in all_lines for word in words(line)), default=0)
    return max(head, longest_word, min(max(map(measure, all_lines), default=0), readable))


def _widest(column: TextColumn, measure: Callable[[str], int]) -> int:
    return max(map(measure, (column.header, *(line for cell in column.cells for line in cell))))


def _widths(columns: Sequence[TextColumn], spare: int, measure: Callable[[str], int], readable: int) -> tuple[int, ...]:
    """Heads get what they need to stand on one line, then text that is wrapped shares what is left by the ratios."""
    widths = [_narrowest(c, measure, readable) for c in columns]
    wanted = [_widest(c, measure) for c in columns]
    for i, column in enumerate(columns):
        if not column.wrap:
            more = min(spare, wanted[i] - widths[i])
            widths[i], spare = widths[i] + more, spare - more
    hungry = [i for i, c in enumerate(columns) if c.wrap and widths[i] < wanted[i]]
    while spare and hungry:
        i = min(hungry, key=lambda i: widths[i] / columns[i].ratio)
        widths[i], spare = widths[i] + 1, spare - 1
        if widths[i] == wanted[i]:
            hungry.remove(i)
    return tuple(widths)


def _interval_below(column: TextColumn) -> TextColumn:
    split: Iterable[tuple[str, ...]] = (
        tuple(part for line in cell for part in _INTERVAL.split(line, 1)) for cell in column.cells
    )
    return replace(column, cells=list(split))
