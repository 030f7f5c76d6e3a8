"""Sections as rich tables. Everything from the database goes in as `Text`, never as markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from harness.reports.cells import lines, visible
from harness.reports.section import Block, Section

_MOST_LABELS = 4
"""Rows that a note names before it counts them."""


def section_tables(section: Section, rows: Sequence[Any]) -> Iterator[RenderableType]:
    """A section's picture, tables, legend and notes."""
    if section.lead:
        yield Text(visible(section.lead(rows)), style="bold")
        yield Text()
    picture = section.picture(rows) if section.picture else None
    if picture is not None:
        yield picture
        yield Text()
    for block in section.parts(rows):
        yield block_table(section, block)
        yield Text()
    if section.legend:
        yield Text(section.legend, style="dim")
    for note in notes(section, rows):
        yield Text(note, style="yellow")


def block_table(section: Section, block: Block) -> Table:
    """One table."""
    wide = any(column.ratio for column in section.columns)
    title = None if block.title == section.title else Text(visible(block.title), style="bold")
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        expand=wide,
        pad_edge=False,
        collapse_padding=True,
        show_edge=False,
    )
    for column in section.columns:
        table.add_column(
            Text(column.header),
            justify=column.justify,
            # names stay whole; where there is no room, numbers go on below: a cut one would read as another number
            no_wrap=not column.wrap and column.justify == "left",
            overflow="fold",
            ratio=column.ratio,
        )
    for row in block.rows:
        table.add_row(*(Lines(lines(column.cell(row))) for column in section.columns))
    return table


class Lines:
    """A cell whose lines mostly fit: only where one does not, it is wrapped as rich wraps every text, at a price."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines, self._widths = lines, [cell_len(line) for line in lines]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Widths of the longest word and of the longest line."""
        words = (cell_len(word) for line in self._lines for word in line.split())
        return Measurement(max(words, default=0), max(self._widths, default=0))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, on the side that the column says."""
        if max(self._widths, default=0) > options.max_width:
            yield Text("\n".join(self._lines))
            return
        for line in self._lines:
            if options.justify == "right":
                line = line.rstrip()
                line = " " * (options.max_width - cell_len(line)) + line
            yield Segment(line)
            yield Segment.line()


def notes(section: Section, rows: Sequence[Any]) -> list[str]:
    """The reasons and notes of rows, each once, filed under the rows' labels."""
    if section.label is None:
        return []
    filed: dict[str, list[str]] = {}
    for row in rows:
        for name in ("reason", "note"):
            said = getattr(row, name, None)
            if said:
                filed.setdefault(visible(said), []).append(visible(section.label(row)))
    return [f"{_listed(list(dict.fromkeys(labels)))}: {said}" for said, labels in filed.items()]


def _listed(labels: Sequence[str]) -> str:
    """All of a few labels; the first of many, with their number."""
    if len(labels) <= _MOST_LABELS:
        return ", ".join(labels)
    return f"{', '.join(labels[: _MOST_LABELS - 1])} and {len(labels) - _MOST_LABELS + 1} more rows"
