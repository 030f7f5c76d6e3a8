"""Markdown: a heading and a pipe table per block, then legend and notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from harness.contract.cells import lines, visible
from harness.contract.report import Report
from harness.render.formats import print_raw
from harness.render.loading import Loaded, notes

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")


def print_header(title: str, console: Console) -> None:
    """Print which run it is."""
    print_raw(console, f"{markdown_text(title)}\n\n")


def print_report(loaded: Loaded, console: Console) -> None:
    """Print title, tables, legend and notes."""
    print_raw(console, f"## {markdown_text(loaded.report.title)}\n\n")
    if loaded.rows:
        print_raw(console, as_markdown(loaded.report, loaded.rows) + "\n")
    if loaded.footer:
        print_raw(console, f"{markdown_text(loaded.footer)}\n\n")


def as_markdown(report: Report[Any], rows: Sequence[Any]) -> str:
    """Everything below a report's title."""
    parts = [markdown_text(visible(report.lead(rows)))] if report.lead else []
    for block in report.parts(rows):
        rule = "|" + "|".join("---:" if c.justify == "right" else "---" for c in report.columns) + "|"
        body = [pipes(" ".join(map(markdown_text, lines(c.cell(row)))) for c in report.columns) for row in block.rows]
        title = [] if block.title == report.title else [f"### {markdown_text(visible(block.title))}", ""]
        parts.append("\n".join([*title, pipes(markdown_text(c.header) for c in report.columns), rule, *body]))
    if report.legend:
        parts.append(markdown_text(report.legend))
    of_rows = notes(report, rows)
    if of_rows:
        parts.append("\n".join(f"- {markdown_text(note)}" for note in of_rows))
    return "\n\n".join(parts) + "\n"


def pipes(cells: Iterable[str]) -> str:
    """One line of a table; the cells are Markdown."""
    return f"| {' | '.join(cells)} |"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", escaped)
