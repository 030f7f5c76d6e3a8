"""A run as a person watches it: a bar per step with items, rate and time left; plain lines without a terminal."""

from __future__ import annotations

import time
from types import TracebackType

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


class _Rate(ProgressColumn):
    """Items per second, with the unit."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        return Text(f"{task.speed:,.1f} {unit}/s" if task.speed else "", style="cyan")


class _Bar:
    """One step's progress in the live display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def start(self, total: int | None, unit: str) -> None:
        """Begin (again) at 0 of `total`."""
        self._progress.reset(self._task, total=total, unit=unit)

    def advance(self, n: int = 1) -> None:
        """`n` more."""
        self._progress.advance(self._task, n)


class _Lines:
    """One step's progress as occasional lines."""

    def __init__(self, console: Console, step: str) -> None:
        self._console, self._step = console, step
        self._total: int | None = None
        self._unit, self._n, self._last = "", 0, time.monotonic()

    def start(self, total: int | None, unit: str) -> None:
        """Begin (again) at 0 of `total`."""
        self._total, self._unit, self._n = total, unit, 0

    def advance(self, n: int = 1) -> None:
        """`n` more; says so every ten seconds."""
        self._n += n
        if time.monotonic() - self._last >= _PLAIN_EVERY_S:
            self._last = time.monotonic()
            total = f" of {self._total:,}" if self._total else ""
            self._console.print(f"  {self._step}: {self._n:,}{total} {self._unit}", markup=False, highlight=False)


class LiveDisplay:
    """Implements the runner's display on a rich console. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        """On a terminal bars, else lines."""
        self._console = console
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
            return _Lines(self._console, step)
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
        self._console.print(line)

    def note(self, text: str) -> None:
        """Say a sentence."""
        self._console.print(text, markup=False, style="yellow")
