"""The commands report, figures and sql. `harness --help` imports this module: nothing heavy at the top."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import HarnessError, UnknownName, UsageError
from harness.records.segments import HEADLINE, TOKENS_OF, TokensOf
from harness.render.formats import FORMATS
from harness.render.terminal import make_console, paged
from harness.reports import load_reports, report_names

if TYPE_CHECKING:
    from harness.contract.report import Report

FIGURES = ("recovery", "figure1", "figure2", "figure3", "frontier", "training", "confusion")
FIGURE_FORMATS = ("svg", "pdf", "png")

RUN_OPTION = click.option(
    "--run", "run_id", default="latest", show_default=True, metavar="latest|ID", help="Which run."
)  # fmt: skip
_FORMAT = click.option(
    "--format", "form", default="table", show_default=True, type=click.Choice(list(FORMATS)), help="Output format."
)
_SEGMENT = click.option(
    "--segment", default=HEADLINE, show_default=True, type=click.Choice(list(TOKENS_OF)),
    help="Tokens that KLs of what was switched off are averaged over; trace and answer are the response.",
)  # fmt: skip
DB_OPTION = click.option(
    "--db", default="results.db", show_default=True, metavar="URL", help="SQLite file or SQLAlchemy URL."
)


@click.command(
    epilog="""\b
Examples:
  harness report                     # one screen: recovery, where the effect sits, features, controls
  harness report --all               # every table
  harness report recovery groups
  harness report components --format json | jq '.[] | select(.projection == null)'
  harness report components sweep --segment all
  harness report features --format csv > features.csv
  harness report recovery --run 3 --format latex
  harness report --export out        # every table in every format, and the figures
  harness report --across 1-5        # runs of five seeds: mean, spread between seeds, what holds in all
  harness report --compare 3 4       # scores, KLs, dictionaries and grades side by side
  harness report --watch             # follow a run from a second terminal"""
)
@click.argument("names", nargs=-1, metavar=f"[{'|'.join(report_names())}]...")
@RUN_OPTION
@_FORMAT
@click.option(
    "--export",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write all tables, formats and figures to a folder.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Every table, through a pager on a terminal (NO_PAGER=1: none)."
)
@click.option("--watch", is_flag=True, help="Follow a run that another process is doing; the tables when it ends.")
@click.option(
    "--across", metavar="RUNS", help="Runs of several seeds as one, e.g. 1-5: spread between seeds, and what holds."
)
@click.option("--compare", nargs=2, metavar="RUN RUN", help="Two runs side by side, with paired differences.")
@_SEGMENT
@DB_OPTION
@click.pass_obj
def report(
    settings: dict[str, Any],
    names: Sequence[str],
    run_id: str,
    form: str,
    export: Path | None,
    everything: bool,
    watch: bool,
    across: str | None,
    compare: tuple[str, str] | None,
    segment: TokensOf,
    db: str,
) -> None:
    """A run on one screen, or its tables: the named ones, or --all. Numbers have their n and an interval or a unit."""
    console = make_console()
    if names and everything:
        raise UsageError(f"--all is every table: leave it out, or {' '.join(names)}")
    of_tables = names or everything or form != "table" or segment != HEADLINE
    if not (of_tables or across or compare or export or watch):
        from harness.render.render import render_summary

        with _no_collection():
            render_summary(db=db, run=run_id, console=console)
        return
    reports = find_reports(names, settings["registry"])
    if segment != HEADLINE:
        _check_segment([reports[name] for name in names or reports], bool(across or compare) or watch)
    if across is not None:
        from harness.render.across import render_across

        render_across(across, names, db=db, form=form, console=console)
        return
    if compare is not None:
        from harness.render.compare import render_comparison

        render_comparison(compare, db=db, form=form, console=console)
        return
    if export is not None:
        _export(names, export, db=db, run=run_id, reports=reports, segment=segment)
        return
    if watch:
        from harness.render.watch import watch as follow

        follow(names or ("overview",), db=db, run=run_id, console=console, reports=reports)
        return
    from harness.render.render import render

    with _no_collection(), paged(console) if everything else nullcontext():
        render(names, db=db, run=run_id, form=form, console=console, reports=reports, segment=segment)


def _check_segment(reports: Sequence[Report[Any]], several_runs: bool) -> None:
    if several_runs:
        raise UsageError(
            "--segment is of tables, --export and figures: leave it out with --across, --compare and --watch"
        )
    if not any(report.by_segment for report in reports):
        have = ", ".join(name for name, report in load_reports().items() if report.by_segment)
        raise UsageError(f"{reports[0].name} has no KL by segment; these reports have: {have}")


def find_reports(names: Sequence[str], registry: str | None) -> dict[str, Report[Any]]:
    """All reports by name. Plugins are loaded only where a name may be one of theirs, or where none is named.

    If a plugin cannot be loaded, the reports of plugins are left out, with a sentence on stderr.

    Raises:
        UnknownName: no report of one of the names.
    """
    if names and set(names) <= set(report_names()):
        return load_reports()
    from harness.study.registry_file import find_registry, names_others

    path = find_registry(registry)
    if not names_others(path):
        return _checked(names, load_reports())
    from harness.study.manager import Manager
    from harness.study.registry import read_registry

    try:
        manager = Manager(read_registry(path))
        reports, problems = load_reports(manager.reports()), list(manager.broken.values())
    except HarnessError as error:
        reports, problems = load_reports(), [str(error)]
    for problem in problems:
        make_console(stderr=True).print(f"reports of plugins are left out: {problem}", markup=False, highlight=False)
    return _checked(names, reports)


def _checked(names: Sequence[str], reports: dict[str, Report[Any]]) -> dict[str, Report[Any]]:
    for name in names:
        if name not in reports:
            raise UnknownName("report", name, reports)
    return reports


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch cyclic garbage collection off: the process ends with the report, and a tenth of its time went there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # else the interpreter collects on its way out
        if was_on:
            gc.enable()


def _export(names: Sequence[str], folder: Path, **asked: Any) -> None:
    from harness.render.export import export_run

    console = make_console(stderr=True)
    with console.status(f"writing {folder}") as status:
        written = export_run(folder, names=names, tell=lambda what: status.update(f"writing {what}"), **asked)
    console.print(f"{written.n_files} files in {written.folder} (start at {written.index.name})", markup=False)
    for reason in written.missing:
        console.print(f"not drawn: {reason}", markup=False, highlight=False)


@click.command(
    epilog="""\b
Examples:
  harness figures
  harness figures figure1 figure2 figure3 --format pdf --theme light --out paper/figures
  harness figures recovery --run 3 --format svg,png
  harness figures figure3 --segment all"""
)
@click.argument("names", nargs=-1, metavar=f"[{'|'.join(FIGURES)}]...")
@RUN_OPTION
@click.option(
    "--out", default="figures", show_default=True, metavar="DIR", type=click.Path(path_type=Path), help="Where to."
)
@click.option("--format", "forms", default="svg,pdf,png", show_default=True, metavar="LIST", help="Of svg, pdf, png.")
@click.option(
    "--theme", default="both", show_default=True, type=click.Choice(["light", "dark", "both"]), help="Colours."
)
@_SEGMENT
@DB_OPTION
def figures(names: Sequence[str], run_id: str, out: Path, forms: str, theme: str, segment: TokensOf, db: str) -> None:
    """Draw a run's figures for a paper's column (3.3 inches); all of them where none is named."""
    for name in names:
        if name not in FIGURES:
            raise UnknownName("figure", name, FIGURES)
    wanted = [form.strip() for form in forms.split(",") if form.strip()]
    for form in wanted:
        if form not in FIGURE_FORMATS:
            raise UnknownName("figure format", form, FIGURE_FORMATS)
    if not wanted:
        raise UsageError("--format names no format; for example: --format svg,pdf")
    from harness.render.export import export_figures

    drawn = export_figures(
        out,
        db=db,
        run=run_id,
        names=names or None,
        formats=wanted,
        themes=["light", "dark"] if theme == "both" else [theme],
        segment=segment,
    )
    console = make_console()
    for path in drawn.paths:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    for reason in drawn.missing:
        make_console(stderr=True).print(f"not drawn: {reason}", markup=False, highlight=False)
    if not drawn.paths:
        raise UsageError("no figure could be drawn; the reasons are above")


@click.command(
    epilog="""\b
Examples:
  harness sql "SELECT * FROM v_run"
  harness sql "SELECT source, grade, n FROM v_grade WHERE run_id = 1" --format md
  harness sql "SELECT * FROM v_feature WHERE explanation LIKE '%operator%'" --format csv > operators.csv
  harness sql - < question.sql"""
)
@click.argument("statement", metavar="SELECT...|-")
@_FORMAT
@DB_OPTION
def sql(statement: str, form: str, db: str) -> None:
    """Ask the results database in SQL. It cannot write; docs/schema.md describes views and tables."""
    from harness.render.sql import print_answer
    from harness.store.readonly import ask

    if statement == "-":
        statement = sys.stdin.read()
    print_answer(ask(db, statement), form, make_console())
