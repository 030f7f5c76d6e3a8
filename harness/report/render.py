"""The entry point of `harness report`: sections of a run, in a format, to a console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from sqlalchemy import Connection

from harness.errors import UnknownName, UsageError
from harness.report.cells import visible
from harness.report.formats import as_csv, as_json, as_latex, as_markdown, markdown_text
from harness.report.sections import SECTIONS, Section
from harness.report.tables import section_tables
from harness.results import queries
from harness.results.database import open_database, sentences

FORMATS = ("table", "json", "csv", "md", "latex")
"""`table` is for terminals, `json` and `csv` have every column and row, `md` and `latex` are for papers."""


def render(
    sections: Sequence[str],
    *,
    db: str | Path,
    run: str | int = "latest",
    form: str = "table",
    console: Console,
) -> None:
    """Print reports of a run.

    Args:
        sections: names in `SECTIONS`; JSON and CSV take one.
        db: path or URL of the database; it is not created.
        run: `latest` or an id.
        form: one of `FORMATS`.
        console: where to; its width, colour and file are respected.

    Raises:
        UsageError: an unknown section or format, or several sections in JSON or CSV.
        ResultsError: no such database or run.
    """
    for name in sections:
        if name not in SECTIONS:
            raise UnknownName("report", name, SECTIONS)
    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    if form in ("json", "csv") and len(sections) != 1:
        raise UsageError(f"--format {form} prints one report: name it, for example: harness report recovery")
    engine = open_database(db, create=False)
    try:
        with sentences(str(db)), engine.connect() as connection:
            run_id = queries.resolve_run(connection, run)
            if form in ("json", "csv"):
                _print_data(connection, run_id, SECTIONS[sections[0]], form, console)
            else:
                _print_document(connection, run_id, sections, form, console)
    finally:
        engine.dispose()


def header(row: queries.OverviewRow) -> str:
    """What every report begins with: which run its numbers are from."""
    commit = (row.git_sha or "unknown")[:10] + (" (dirty)" if row.git_dirty else "")
    return visible(
        f"Run {row.run_id}: study {row.study}, preset {row.preset or 'none'}, seed {row.seed}, "
        f"model {row.model or 'unknown'}, commit {commit}, {row.status}"
    )


def _print_data(connection: Connection, run_id: int, section: Section, form: str, console: Console) -> None:
    rows = section.query(connection, run_id)
    _raw(console, as_json(rows) if form == "json" else as_csv(type(rows[0]) if rows else None, rows))
    if not rows:
        why = queries.why_empty(connection, run_id, section.stages, section.what)
        Console(stderr=True).print(Text(visible(why)), soft_wrap=True)


def _print_document(connection: Connection, run_id: int, sections: Sequence[str], form: str, console: Console) -> None:
    title = header(queries.overview(connection, run_id)[0])
    if form == "table":
        console.print(Text(title, style="bold"))
    else:
        _raw(console, f"{markdown_text(title)}\n\n" if form == "md" else f"% {title}\n")
    for name in _with_companions(sections):
        _print_section(connection, run_id, SECTIONS[name], form, console)


def _print_section(connection: Connection, run_id: int, section: Section, form: str, console: Console) -> None:
    rows: Sequence[Any] = section.query(connection, run_id)
    if form == "table":
        console.print()
        console.print(Text(section.title, style="bold underline"))
    elif form == "md":
        _raw(console, f"## {markdown_text(section.title)}\n\n")
    if not rows:
        why = visible(queries.why_empty(connection, run_id, section.stages, section.what))
        if form == "table":
            console.print(Text(why, style="yellow"))
        else:
            _raw(console, f"{markdown_text(why)}\n\n" if form == "md" else f"% {why}\n")
    elif form == "table":
        for part in section_tables(section, rows):
            console.print(part)
    else:
        _raw(console, (as_markdown if form == "md" else as_latex)(section, rows) + "\n")


def _with_companions(sections: Sequence[str]) -> list[str]:
    """The sections, each with those that are shown with it."""
    return list(
        dict.fromkeys(name for asked in sections for name in (*SECTIONS[asked].before, asked, *SECTIONS[asked].after))
    )


def _raw(console: Console, text: str) -> None:
    """Print text as it is: no markup, no wrapping, no highlighting."""
    console.out(text, highlight=False, end="")
