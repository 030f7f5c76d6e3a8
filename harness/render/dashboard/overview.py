"""The overview: the run, and the tables of `harness report` with their numbers, notes and legends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from harness.render.tables import notes
from harness.reports import queries
from harness.reports.cells import lines, visible
from harness.reports.section import Section
from harness.reports.sections import SECTIONS

LEFT_OUT = ("overview", "features")
"""Sections with pages of their own: the run's header and the feature browser."""


def run_data(connection: Connection, run_id: int) -> dict[str, Any]:
    """The run and its steps."""
    (row,) = queries.overview(connection, run_id)
    return asdict(row) | {"steps": [asdict(s) for s in queries.steps(connection, run_id)]}


def overview_data(
    connection: Connection, run_id: int, pictures: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Every section as text: titles, tables, legend, notes; or why it is empty. The steps come last.

    Args:
        connection: to the database.
        run_id: the run.
        pictures: section -> its figures.
    """
    names = sorted((n for n in SECTIONS if n not in LEFT_OUT), key=lambda n: n == "steps")
    return [_section(connection, run_id, SECTIONS[name]) | {"figures": pictures.get(name, [])} for name in names]


def _section(connection: Connection, run_id: int, section: Section) -> dict[str, Any]:
    rows: Sequence[Any] = section.query(connection, run_id)
    found: dict[str, Any] = {"name": section.name, "title": section.title, "legend": section.legend}
    if not rows:
        why = queries.why_empty(connection, run_id, section.stages, section.what)
        return found | {"tables": [], "notes": [], "empty": visible(why)}
    tables = [
        {
            "title": None if block.title == section.title else visible(block.title),
            "columns": [{"header": c.header, "justify": c.justify, "wide": c.wrap} for c in section.columns],
            "rows": [[list(lines(c.cell(row))) for c in section.columns] for row in block.rows],
        }
        for block in section.parts(rows)
    ]
    return found | {"tables": tables, "notes": notes(section, rows), "empty": None}
