"""Live progress of a run: a bar per step with items, rate, time left and LLM cost; plain lines without a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_STYLES = {"done": "green", "reused": "dim", "failed": "red", "interrupted": "yellow", "incomplete": "red",
           "waiting": "yellow", "held": "yellow"}  # fmt: skip
_PLAIN_EVERY_S = 10.0


def _rate(per_s: float, unit: str) -> str:
    """Items per second; seconds per item where that is more than one. Nothing before the first item."""
    if per_s <= 0:
        return ""
    return f"{per_s:,.1f} {unit}/s" if per_s >= 1 else f"{1 / per_s:,.1f} s/{unit.removesuffix('s')}"


class _Rate(ProgressColumn):
    """Items per second, with the unit."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        return Text(_rate(task.speed, unit) if task.speed else "", style="cyan")


class Spending(Protocol):
    """What a run's LLM calls came to so far (`harness.contract.session.Session`)."""

    n_sent: int
    cost_usd: float


def spent(spending: Spending | None) -> str:
    """Calls and price in words; empty before the first call."""
    if spending is None or not spending.n_sent:
        return ""
    price = f", ${spending.cost_usd:.4f}" if spending.cost_usd else ""
    return f"{spending.n_sent:,} LLM calls{price}"


class _Spent(ProgressColumn):
    """LLM calls and their price."""

    def __init__(self, spending: Spending | None) -> None:
        super().__init__()
        self._spending = spending

    def render(self, task: Task) -> Text:
        return Text(spent(self._spending), style="magenta")


class _Bar:
    """One step's progress in the live display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def start(self, total: int | None, unit: str) -> None:
        """Start, or start again, at 0 of `total` items."""
        self._progress.reset(self._task, total=total, unit=unit)

    def advance(self, n: int = 1) -> None:
        """Add `n` items."""
        self._progress.advance(self._task, n)


class _Lines:
    """One step's progress as occasional lines."""

    def __init__(self, console: Console, step: str, spending: Spending | None) -> None:
        self._console, self._step, self._spending = console, step, spending
        self._total: int | None = None
        self._unit, self._n, self._began = "", 0, time.monotonic()
        self._last = self._began

    def start(self, total: int | None, unit: str) -> None:
        """Start, or start again, at 0 of `total` items."""
        self._total, self._unit, self._n, self._began = total, unit, 0, time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Add `n` items; print a line every ten seconds."""
        self._n += n
        if time.monotonic() - self._last >= _PLAIN_EVERY_S:
            self._last = time.monotonic()
            self._console.print(f"  {self._step}: {self._said()}", markup=False, highlight=False, soft_wrap=True)

    def _said(self) -> str:
        """Items, rate, time left and spend."""
        rate = self._n / max(self._last - self._began, 1e-9)
        said = [f"{self._n:,}" + (f" of {self._total:,}" if self._total else "") + f" {self._unit}"]
        said.append(_rate(rate, self._unit))
        if self._total and 1 < self._n < self._total:  # the first item's time includes loading
            said.append(f"about {(self._total - self._n) / rate:,.0f} s left")
        return ", ".join(part for part in (*said, spent(self._spending)) if part)


class LiveDisplay:
    """Implements the runner's display on a rich console. Use as a context manager."""

    def __init__(self, console: Console, spending: Spending | None = None) -> None:
        """On a terminal bars, else lines; `spending` is read whenever something is shown."""
        self._console, self._spending = console, spending
        self._live = console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _Spent(spending),
            console=console,
            transient=True,
        )

    def __enter__(self) -> LiveDisplay:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def begin(self, step: str, position: int, total: int) -> _Bar | _Lines:
        """A step begins."""
        label = f"[{position}/{total}] {step}"
        if not self._live:
            self._console.print(f"{label} ...", markup=False, highlight=False)
            return _Lines(self._console, step, self._spending)
        self._tasks[step] = self._progress.add_task(label, total=None, unit="")
        return _Bar(self._progress, self._tasks[step])

    def end(self, step: str, status: str, wall_s: float) -> None:
        """A step ended: its bar becomes a line."""
        if step in self._tasks:
            self._progress.remove_task(self._tasks.pop(step))
        line = Text(f"  {status:<11} ", style=_STYLES.get(status, ""))
        line.append(step, style="default" if status != "reused" else "dim")
        if status != "reused":
            line.append(f"  {wall_s:.1f} s", style="dim")
            cost = spent(self._spending)
            line.append(f"  ({cost} so far)" if cost else "", style="dim")
        self._console.print(line)

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._console.print(text, markup=False, style="yellow", soft_wrap=True)
