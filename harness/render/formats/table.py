"""Tables for terminals. Everything from the database goes in as `Text` or plain strings, never as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.contract.report import Report
from harness.contract.wrapping import paragraph
from harness.render.formats.fit import GAP, TextColumn, as_blocks, fit, printed, text_columns
from harness.render.loading import Loaded, notes


def print_header(title: str, console: Console) -> None:
    """Print which run it is."""
    print_prose(console, title, "bold")


def print_report(loaded: Loaded, console: Console) -> None:
    """Print title, picture, tables, legend and notes."""
    console.print()
    print_prose(console, loaded.report.title, "bold underline")
    if loaded.rows:
        _print_rows(loaded.report, loaded.rows, console)
    if loaded.footer:
        print_prose(console, loaded.footer, "dim" if loaded.rows else "yellow")


def _print_rows(report: Report[Any], rows: Sequence[Any], console: Console) -> None:
    """What stands below a report's title, from the top."""
    if report.lead:
        print_prose(console, report.lead(rows), "bold")
        console.print()
    picture = report.picture(rows) if report.picture else None
    if picture is not None:
        console.print(picture)
        console.print()
    for block in report.parts(rows):
        if block.title != report.title:
            print_prose(console, block.title, "bold")
        print_columns(text_columns(report, block), console)
        console.print()
    if report.legend:
        print_prose(console, report.legend, "dim")
    for note in notes(report, rows):
        print_prose(console, note, "yellow")


def print_columns(columns: Sequence[TextColumn], console: Console, *, compact: bool = False) -> None:
    """Print a table as it fits into the console; a compact one has no rule and does not name what left it."""
    fitted = fit(columns, console.width)
    if not fitted.columns:
        print_blocks(as_blocks(columns, console.width), console)
        return
    head, body = printed(fitted)
    rule = "─" * (sum(fitted.widths) + GAP * (len(fitted.widths) - 1))
    print_lines(console, "\n".join(head), "dim" if compact else "bold")
    if not compact:
        print_lines(console, rule)
    if body:
        print_lines(console, "\n".join(body))
    if fitted.left_out and not compact:
        print_prose(console, f"No room for: {', '.join(fitted.left_out)} (a wider terminal, or --format json).", "dim")


def print_blocks(blocks: Iterable[tuple[list[str], list[str]]], console: Console) -> None:
    """Print rows as blocks of lines."""
    for title, body in blocks:
        print_lines(console, "\n".join(title), "bold")
        if body:
            print_lines(console, "\n".join(body))


def print_prose(console: Console, text: str, style: str = "") -> None:
    """Print text wrapped between words."""
    print_lines(console, paragraph(text, console.width), style)


def print_lines(console: Console, text: str, style: str = "") -> None:
    """Print lines as they are: rich would break what is too long."""
    console.print(Text(text, style=style), no_wrap=True, overflow="ignore", crop=False)
