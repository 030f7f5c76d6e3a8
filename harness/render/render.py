"""The entry point of `harness report`: sections of a run, in a format, to a console."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from sqlalchemy import Connection

from harness.errors import UnknownName, UsageError
from harness.render.formats import as_csv, as_json, as_latex, as_markdown, markdown_text
from harness.render.tables import section_tables
from harness.reports import queries
from harness.reports.cells import visible
from harness.reports.query_common import one_report
from harness.reports.section import Section
from harness.reports.sections import SECTIONS
from harness.store.database import open_database, translate_db_errors

FORMATS = ("table", "json", "csv", "md", "latex")
"""`table` is for terminals, `json` and `csv` have every column and row, `md` and `latex` are for papers."""

MOST_KEYS = 6
"""Step keys named below a section; `harness report steps` has all."""


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
        with translate_db_errors(str(db)), engine.connect() as connection, one_report():
            run_id = queries.resolve_run(connection, run)
            if form in ("json", "csv"):
                loaded = load_section(connection, run_id, sections[0])
                print_section(loaded, form, console)
                if not loaded.rows:
                    Console(stderr=True).print(Text(loaded.why), soft_wrap=True)
            else:
                print_header(queries.overview(connection, run_id)[0], form, console)
                for name in _with_companions(sections):
                    print_section(load_section(connection, run_id, name, preview=True), form, console)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Loaded:
    """A section's rows.

    Attributes:
        section: which report.
        rows: as its query gave them.
        why: the sentence that says why there are no rows; empty where there are some.
        steps: the steps that can have made the rows, with their keys.
    """

    section: Section
    rows: Sequence[Any]
    why: str
    steps: Sequence[queries.StepRow]


def load_section(connection: Connection, run_id: int, name: str, *, preview: bool = False) -> Loaded:
    """Query a section once; it can then be printed in every format, a preview only in those for people."""
    section = SECTIONS[name]
    rows = (section.preview if preview and section.preview else section.query)(connection, run_id)
    why = "" if rows else visible(queries.why_empty(connection, run_id, section.stages, section.what))
    steps = [s for s in queries.steps(connection, run_id) if s.stage in section.stages]
    return Loaded(section, rows, why, steps)


def header(row: queries.OverviewRow) -> str:
    """What every report begins with: which run its numbers are from."""
    commit = (row.git_sha or "unknown")[:10] + (" (dirty)" if row.git_dirty else "")
    return visible(
        f"Run {row.run_id}: study {row.study}, preset {row.preset or 'none'}, seed {row.seed}, "
        f"model {row.model or 'unknown'}, commit {commit}, {row.status}"
    )


def origin(steps: Sequence[queries.StepRow]) -> str:
    """The steps behind a section, with the keys under which they are stored."""
    named = [f"{s.step} {s.key[:12]}" for s in steps[:MOST_KEYS]]
    more = [f"and {len(steps) - MOST_KEYS} more (harness report steps)"] if len(steps) > MOST_KEYS else []
    return visible("Step keys: " + ", ".join([*named, *more]) + ".") if steps else ""


def print_header(overview: queries.OverviewRow, form: str, console: Console) -> None:
    """Say which run it is, in a format for people."""
    title = header(overview)
    if form == "table":
        console.print(Text(title, style="bold"))
    else:
        _raw(console, f"{markdown_text(title)}\n\n" if form == "md" else f"% {title}\n")


def print_section(loaded: Loaded, form: str, console: Console) -> None:
    """Print a section in one of `FORMATS`."""
    section, rows = loaded.section, loaded.rows
    if form in ("json", "csv"):
        _raw(console, as_json(rows) if form == "json" else as_csv(type(rows[0]) if rows else None, rows))
        return
    if form == "table":
        console.print()
        console.print(Text(section.title, style="bold underline"))
    elif form == "md":
        _raw(console, f"## {markdown_text(section.title)}\n\n")
    said = origin(loaded.steps) if rows else loaded.why
    if form == "table":
        for part in section_tables(section, rows) if rows else ():
            console.print(part)
        console.print(Text(said, style="dim" if rows else "yellow"), end="\n" if said else "")
    else:
        if rows:
            _raw(console, (as_markdown if form == "md" else as_latex)(section, rows) + "\n")
        if said:
            _raw(console, f"{markdown_text(said)}\n\n" if form == "md" else f"% {said}\n")


def _with_companions(sections: Sequence[str]) -> list[str]:
    """The sections, each with those that are shown with it."""
    return list(
        dict.fromkeys(name for asked in sections for name in (*SECTIONS[asked].before, asked, *SECTIONS[asked].after))
    )


def _raw(console: Console, text: str) -> None:
    """Print text as it is: no markup, no wrapping, no highlighting."""
    console.out(text, highlight=False, end="")
