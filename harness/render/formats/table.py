"""Rich tables for terminals. Everything from the database goes in as `Text`, never as markup."""

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

from harness.contract.cells import lines, visible
from harness.contract.report import Block, Report
from harness.render.loading import Loaded, notes


def print_header(title: str, console: Console) -> None:
    """Print which run it is."""
    console.print(Text(title, style="bold"))


def print_report(loaded: Loaded, console: Console) -> None:
    """Print title, picture, tables, legend and notes."""
    console.print()
    console.print(Text(loaded.report.title, style="bold underline"))
    for part in _parts(loaded.report, loaded.rows) if loaded.rows else ():
        console.print(part)
    style = "dim" if loaded.rows else "yellow"
    console.print(Text(loaded.footer, style=style), end="\n" if loaded.footer else "")


def _parts(report: Report[Any], rows: Sequence[Any]) -> Iterator[RenderableType]:
    """What stands below a report's title, from the top."""
    if report.lead:
        yield Text(visible(report.lead(rows)), style="bold")
        yield Text()
    picture = report.picture(rows) if report.picture else None
    if picture is not None:
        yield picture
        yield Text()
    for block in report.parts(rows):
        yield _table(report, block)
        yield Text()
    if report.legend:
        yield Text(report.legend, style="dim")
    for note in notes(report, rows):
        yield Text(note, style="yellow")


def _table(report: Report[Any], block: Block[Any]) -> Table:
    table = Table(
        title=None if block.title == report.title else Text(visible(block.title), style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        expand=any(column.ratio for column in report.columns),
        pad_edge=False,
        collapse_padding=True,
        show_edge=False,
    )
    for column in report.columns:
        table.add_column(
            Text(column.header),
            justify=column.justify,
            # Names stay whole. Where there is no room, numbers go on below: a cut one would read as another number.
            no_wrap=not column.wrap and column.justify == "left",
            overflow="fold",
            ratio=column.ratio,
        )
    for row in block.rows:
        table.add_row(*(Lines(lines(column.cell(row))) for column in report.columns))
    return table


class Lines:
    """A cell whose lines mostly fit. Only where one does not, rich wraps it as text, which takes three times as long.

    It saves a twentieth of the time of `harness report`.
    """

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
