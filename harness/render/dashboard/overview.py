"""The overview: the run on one screen, then all tables of `harness report` with their numbers, notes and legends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from harness.contract.cells import lines, visible
from harness.contract.report import Report
from harness.render.loading import load_report, notes
from harness.render.summary import summary
from harness.reports.overview import overview
from harness.reports.steps import steps

LEFT_OUT = ("overview", "features")
"""Reports with pages of their own: the run's header and the feature browser."""


def run_data(connection: Connection, run_id: int) -> dict[str, Any]:
    """The run, its steps, and what `harness report` says of it on one screen."""
    (row,) = overview(connection, run_id)
    return asdict(row) | {
        "steps": [asdict(s) for s in steps(connection, run_id)],
        "summary": [section.as_data() for section in summary(connection, run_id)],
    }


def overview_data(
    connection: Connection,
    run_id: int,
    reports: Mapping[str, Report[Any]],
    pictures: Mapping[str, list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Every report as text: titles, tables, legend, notes; or why it is empty. The steps come last.

    Args:
        connection: to the database.
        run_id: the run.
        reports: name -> report.
        pictures: name of a report -> its figures.
    """
    names = sorted((n for n in reports if n not in LEFT_OUT), key=lambda n: n == "steps")
    return [_report(connection, run_id, reports[name]) | {"figures": pictures.get(name, [])} for name in names]


def _report(connection: Connection, run_id: int, report: Report[Any]) -> dict[str, Any]:
    loaded = load_report(connection, run_id, report)
    about = {"name": report.name, "title": report.title, "legend": report.legend}
    if not loaded.rows:
        return about | {"tables": [], "notes": [], "empty": loaded.footer}
    tables = [
        {
            "title": None if block.title == report.title else visible(block.title),
            "columns": [{"header": c.header, "justify": c.justify, "wide": c.wrap} for c in report.columns],
            "rows": [[list(lines(c.cell(row))) for c in report.columns] for row in block.rows],
        }
        for block in report.parts(loaded.rows)
    ]
    return about | {"tables": tables, "notes": notes(report, loaded.rows), "empty": None}
