"""`harness report --watch`: follow a run that another process writes. A table on a terminal, lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, func, select

from harness.contract.cells import visible
from harness.contract.report import Report
from harness.errors import ResultsError
from harness.render.loading import run_title
from harness.render.render import render
from harness.reports.common.run import open_results, resolve_run
from harness.reports.overview import overview
from harness.store.database import database_url, sqlite_path, url_of
from harness.store.lock import lock_file
from harness.store.schema import RECORDS, Columns, LLMCall, RunStep, Step

POLL_S = 1.0
"""Seconds between two polls of the database."""

_STYLES = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}


@dataclass(frozen=True)
class ProgressRow:
    """One step of a run: what it stored so far. `price_usd` is null where no call has a known price."""

    position: int
    step: str
    status: str
    reused: bool
    n_stored: int
    wall_s: float | None
    n_llm_calls: int
    price_usd: float | None
    reason: str | None


@dataclass(frozen=True)
class Snapshot:
    """State of a run when the database was polled.

    Attributes:
        title: the report's header.
        status: of the run.
        reason: why it is not done.
        steps: in order.
        rates: records stored per second by each step, since the poll before.
    """

    title: str
    status: str
    reason: str | None
    steps: Sequence[ProgressRow]
    rates: dict[str, float]


def watch(
    names: Sequence[str],
    *,
    db: str | Path,
    run: str | int = "latest",
    console: Console,
    reports: Mapping[str, Report[Any]] | None = None,
    poll_s: float = POLL_S,
) -> None:
    """Follow a run until it ends, then print reports of it. Waits where there is no database or run yet.

    Raises:
        ResultsError: the run failed, or its process is gone though the run is not at its end.
    """
    snapshot = (
        _follow_live(db, run, console, poll_s) if console.is_terminal else _follow_lines(db, run, console, poll_s)
    )
    if snapshot.status == "running":
        raise ResultsError(
            "no process is writing this run any more: it was killed; run it again, it goes on from there"
        )
    render(names, db=db, run=run, console=console, reports=reports)
    if snapshot.status != "done":
        raise ResultsError(f"the run is {snapshot.status}" + (f": {snapshot.reason}" if snapshot.reason else ""))


def _follow_live(db: str | Path, run: str | int, console: Console, poll_s: float) -> Snapshot:
    with Live(Text(f"waiting for a run in {database_url(db)}"), console=console, refresh_per_second=4) as live:
        for snapshot in snapshots(db, run, poll_s):
            live.update(_table(snapshot))
        return snapshot


def _follow_lines(db: str | Path, run: str | int, console: Console, poll_s: float) -> Snapshot:
    """A line whenever a step begins or ends."""
    said: dict[str, str] = {}
    for number, snapshot in enumerate(snapshots(db, run, poll_s)):
        if number == 0:
            console.print(Text(snapshot.title), soft_wrap=True)
        for step in snapshot.steps:
            if said.get(step.step) != step.status:
                said[step.step] = step.status
                console.print(Text(_line(step)), soft_wrap=True)
    return snapshot


def snapshots(db: str | Path, run: str | int, poll_s: float) -> Iterator[Snapshot]:
    """Poll the database until the run ends or no process writes it."""
    before: dict[str, int] = {}
    at = time.monotonic()
    while True:
        alive = _is_being_written(db)  # before the poll, so that a run that ends in between is seen as ended
        snapshot, counts = _snapshot(db, run, before, time.monotonic() - at)
        before, at = counts, time.monotonic()
        if snapshot is not None:
            yield snapshot
            if snapshot.status != "running" or not alive:
                return
        time.sleep(poll_s)


def _snapshot(
    db: str | Path, run: str | int, before: dict[str, int], passed_s: float
) -> tuple[Snapshot | None, dict[str, int]]:
    path = sqlite_path(url_of(db))
    if path is not None and not path.exists():
        return None, {}
    with open_results(db) as connection:
        try:
            run_id = resolve_run(connection, run)
        except ResultsError:
            if str(run) != "latest":
                raise
            return None, {}
        about_run = overview(connection, run_id)[0]
        steps = progress(connection, run_id)
    counts = {s.step: s.n_stored for s in steps}
    rates = {n: (c - before[n]) / passed_s for n, c in counts.items() if n in before and passed_s > 0 and c > before[n]}
    return Snapshot(run_title(about_run), about_run.status, about_run.reason, steps, rates), counts


def _is_being_written(db: str | Path) -> bool:
    """Whether a run holds the database's lock; true where that cannot be known (no file, or a server)."""
    path = sqlite_path(url_of(db))
    if path is None or not path.exists():
        return True
    lock = FileLock(lock_file(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return True
    lock.release()
    return False


def _table(snapshot: Snapshot) -> Table:
    table = Table(
        title=Text(snapshot.title, style="bold"), title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for name in ("step", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("wall", "stored", "per s", "LLM calls", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in snapshot.steps:
        rate = snapshot.rates.get(s.step)
        status = "reused" if s.reused and s.status == "done" else s.status
        table.add_row(
            Text(visible(s.step)), Text(status, style=_STYLES.get(status, "")),
            "" if s.wall_s is None else f"{s.wall_s:,.1f} s", f"{s.n_stored:,}", "" if rate is None else f"{rate:,.1f}",
            f"{s.n_llm_calls:,}" if s.n_llm_calls else "", "" if s.price_usd is None else f"{s.price_usd:.4f}",
        )  # fmt: skip
    calls, price = sum(s.n_llm_calls for s in snapshot.steps), sum(s.price_usd or 0.0 for s in snapshot.steps)
    table.caption = f"{calls:,} LLM calls, ${price:.4f}" if calls else None
    return table


def _line(step: ProgressRow) -> str:
    status = "reused" if step.reused and step.status == "done" else step.status
    said = [f"{step.n_stored:,} records stored"] if step.n_stored else []
    if step.wall_s is not None and status not in ("running", "reused"):
        said.append(f"{step.wall_s:.1f} s")
    if step.n_llm_calls:
        said.append(f"{step.n_llm_calls:,} LLM calls")
    return visible(f"{status:<11} {step.step}" + (f"  ({', '.join(said)})" if said else ""))


def progress(connection: Connection, run_id: int) -> list[ProgressRow]:
    """The run's steps so far, in order. Wall time of a running step is counted until now."""
    steps = connection.execute(
        select(
            Step.id, Step.name, Step.status, Step.wall_s, Step.reason, Step.started_at, RunStep.position, RunStep.reused
        )
        .join(RunStep, RunStep.step_id == Step.id)
        .where(RunStep.run_id == run_id)
        .order_by(RunStep.position)
    ).all()
    calls = connection.execute(
        select(LLMCall.step_id, func.count().label("n"), func.sum(LLMCall.price_usd).label("price"))
        .where(LLMCall.step_id.in_([s.id for s in steps]))
        .group_by(LLMCall.step_id)
    ).all()
    by_step = {c.step_id: c for c in calls}
    rows = []
    for s in steps:
        call = by_step.get(s.id)
        rows.append(
            ProgressRow(
                position=s.position,
                step=s.name,
                status=s.status,
                reused=s.reused,
                n_stored=sum(_count(connection, table, s.id) for table in RECORDS),
                wall_s=_since(s.started_at) if s.status == "running" else s.wall_s,
                n_llm_calls=call.n if call else 0,
                price_usd=call.price if call else None,
                reason=s.reason,
            )
        )
    return rows


def _count(connection: Connection, table: Columns, step_id: int) -> int:
    counted = select(func.count()).select_from(table).where(table.step_id == step_id)
    return int(connection.execute(counted).scalar_one())


def _since(started_at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds()
