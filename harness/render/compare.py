"""`harness report --compare RUN RUN`: what differs in the settings, then every number of both with its difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.errors import UsageError
from harness.render.render import Loaded, print_header, print_section
from harness.reports import queries
from harness.reports.cells import (
    Cell,
    Column,
    count,
    fixed,
    flagged,
    p_value,
    percent,
    short,
    significant,
    text,
    with_interval,
)
from harness.reports.query_compare import compare_runs, different_settings
from harness.reports.section import Block, Section
from harness.store.database import open_database, translate_db_errors

TOP_ABLATIONS = 12
"""Things switched off that people see, largest first; JSON and CSV have all."""

_TITLES = {
    "benchmarks": "Benchmarks, paired by item",
    "ablations": "Switched off: KL(adapter || ablated), paired by document where both runs stored them",
    "dictionaries": "Dictionaries",
    "grades": "Grades",
}


def render_comparison(runs: Sequence[str], *, db: str | Path, form: str, console: Console) -> None:
    """Print two runs side by side, in one of `harness.render.render.FORMATS`; JSON and CSV have the numbers only.

    Raises:
        UsageError: the two are the same run.
        ResultsError: no such database or run.
    """
    engine = open_database(db, create=False)
    try:
        with translate_db_errors(str(db)), engine.connect() as connection:
            first, second = (queries.resolve_run(connection, run) for run in runs)
            if first == second:
                raise UsageError(
                    f"{runs[0]} and {runs[1]} are the same run; name two (harness sql 'SELECT * FROM v_run')"
                )
            rows = compare_runs(connection, first, second)
            numbers = _loaded(_numbers(first, second), rows)
            if form in ("json", "csv"):
                print_section(numbers, form, console)
                return
            for run in (first, second):
                print_header(queries.overview(connection, run)[0], form, console)
            print_section(
                _loaded(_settings(first, second), different_settings(connection, first, second)), form, console
            )
            print_section(numbers, form, console)
    finally:
        engine.dispose()


def _loaded(section: Section, rows: Sequence[Any]) -> Loaded:
    return Loaded(section, rows, "" if rows else f"no {section.what}", ())


def _nothing(*_: Any) -> list[Any]:
    return []


def _settings(first: int, second: int) -> Section:
    return Section(
        "settings",
        "What differs",
        _nothing,
        (
            Column("setting", lambda r: r.what, "left", wrap=True, ratio=2),
            Column(f"run {first}", lambda r: short(r.first), "left", wrap=True, ratio=1),
            Column(f"run {second}", lambda r: short(r.second), "left", wrap=True, ratio=1),
        ),
        what="different settings: the same steps, all reused",
    )


def _numbers(first: int, second: int) -> Section:
    return Section(
        "comparison",
        f"Run {first} and run {second}",
        _nothing,
        (
            Column("what", lambda r: r.what, "left", wrap=True, ratio=2),
            Column("n", lambda r: count(r.n)),
            Column(f"run {first}", lambda r: _number(r, "first")),
            Column(f"run {second}", lambda r: _number(r, "second")),
            Column(f"run {second} - run {first}", lambda r: flagged(_number(r, "difference"), r.engines_differ)),
            Column("by", lambda r: text(r.pairing), "left"),
            Column("p", lambda r: p_value(r.p_value)),
        ),
        what="numbers in either run",
        label=lambda r: r.what,
        legend=(
            "95 % intervals. Differences by items: Bonett-Price over the same items, p: exact McNemar test; by "
            "documents: bootstrap over the same documents; independent: from the two intervals (MOVER). KL in nats "
            "per token. n: items, documents or features."
        ),
        blocks=_blocks,
    )


def _blocks(rows: Sequence[Any]) -> list[Block]:
    blocks = []
    for name, title in _TITLES.items():
        own = [r for r in rows if r.table == name]
        if name == "ablations" and len(own) > TOP_ABLATIONS:
            shown = sorted(own, key=lambda r: -max(r.first or 0.0, r.second or 0.0))[:TOP_ABLATIONS]
            title, own = f"{title}: {len(shown)} of {len(own)}, largest first", shown
        if own:
            blocks.append(Block(title, own))
    return blocks


def _number(row: Any, name: str) -> Cell:
    form = {"nats per token": significant, "share": percent}.get(row.unit, fixed)
    value, low, high = (getattr(row, n) for n in (name, f"{name}_ci_low", f"{name}_ci_high"))
    return with_interval(value, low, high, form)
