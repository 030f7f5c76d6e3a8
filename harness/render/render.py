"""The entry point of `harness report`: reports of a run, in a format, to a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.contract.report import Report
from harness.errors import UnknownName, UsageError
from harness.records.segments import HEADLINE, TokensOf
from harness.render.formats import DATA_FORMATS, find_format
from harness.render.loading import load_report, run_title
from harness.render.summary import print_summary, summary
from harness.reports import load_reports
from harness.reports.common.run import open_results, resolve_run
from harness.reports.overview import overview


def render(
    names: Sequence[str],
    *,
    db: str | Path,
    run: str | int = "latest",
    form: str = "table",
    console: Console,
    reports: Mapping[str, Report[Any]] | None = None,
    segment: TokensOf = HEADLINE,
) -> None:
    """Print reports of a run.

    Args:
        names: of `reports`; if empty, all but those that are shown by name only; JSON and CSV take one.
        db: path or URL of the database; it is not created.
        run: `latest` or an id.
        form: one of `harness.render.formats.FORMATS`.
        console: where to; its width, colour and file are respected.
        reports: all that can be asked for; the harness's own if not given.
        segment: tokens that KLs are averaged over, in the reports that have them by segment.

    Raises:
        UnknownName: no such report or format.
        UsageError: several reports in JSON or CSV.
        ResultsError: no such database or run.
    """
    reports = load_reports() if reports is None else reports
    for name in names:
        if name not in reports:
            raise UnknownName("report", name, reports)
    formatted = find_format(form)
    if form in DATA_FORMATS and len(names) != 1:
        raise UsageError(f"--format {form} prints one report: name it, for example: harness report recovery")
    with open_results(db) as connection:
        run_id = resolve_run(connection, run)
        if form in DATA_FORMATS:
            loaded = load_report(connection, run_id, reports[names[0]], segment=segment)
            formatted.print_report(loaded, console)
            if not loaded.rows:
                Console(stderr=True).print(Text(loaded.footer), soft_wrap=True)
            return
        names = names or [n for n, r in reports.items() if r.unasked is None or r.unasked(connection, run_id)]
        formatted.print_header(run_title(overview(connection, run_id)[0]), console)
        for name in _with_companions(names, reports):
            loaded = load_report(connection, run_id, reports[name], preview=True, segment=segment)
            formatted.print_report(loaded, console)


def render_summary(*, db: str | Path, run: str | int = "latest", console: Console) -> None:
    """Print a run on one screen.

    Raises:
        ResultsError: no such database or run.
    """
    with open_results(db) as connection:
        run_id = resolve_run(connection, run)
        (row,) = overview(connection, run_id)
        title = f"Run {row.run_id}: {row.study} on {row.model or 'an unknown model'}, {row.status}"
        print_summary(title, summary(connection, run_id), console)


def _with_companions(names: Sequence[str], reports: Mapping[str, Report[Any]]) -> list[str]:
    """The reports, each with those that are shown with it."""
    in_order = (other for name in names for other in (*reports[name].before, name, *reports[name].after))
    return list(dict.fromkeys(in_order))
