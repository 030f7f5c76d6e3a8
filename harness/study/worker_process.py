"""A second process beside the runner's, for steps that do not need each other: a small model leaves a core idle.

The runner hands it a step whose inputs are done and goes on with another one; it alone stores what comes back. A step
that fails there is done again by the runner, which then says what is wrong.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract.context import RunContext
from harness.contract.progress import Progress
from harness.errors import UsageError
from harness.model.folders import local_model
from harness.records import Record
from harness.startup import prepare
from harness.study.interpret import execute
from harness.study.manager import Manager
from harness.study.steps import KINDS, Workbench

if TYPE_CHECKING:
    from harness.study.plan import Plan, Step
    from harness.study.registry import Registry

_SMALL_BYTES = 200e6
"""Weights of a model that two processes may hold at once without asking."""
_FEWEST = 4
"""Steps it could do, below which starting it takes longer than it spares."""


@dataclass(frozen=True)
class Job:
    """A step to be done.

    Attributes:
        step: its name.
        done: items that are stored already.
        outputs: artefact records of its inputs, by step.
    """

    step: str
    done: frozenset[str]
    outputs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """How a step ended there: its wall time in seconds, how many records it made, and why it failed if it did."""

    wall_s: float
    n_records: int = 0
    failure: str | None = None


def jobs_for(plan: Plan, device: str) -> int:
    """How many processes suit a plan: two on a CPU with two cores and a model that is small on disk, else one."""
    folder = local_model(plan.row.model.path)
    if device != "cpu" or (os.cpu_count() or 1) < 2 or plan.row.evaluate.backend != "hf" or folder is None:
        return 1
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return 2 if size <= _SMALL_BYTES else 1


def suits(step: Step, *, asks_llm: bool) -> bool:
    """Whether a step can run there: those of the model's side, which read artefacts and not the database."""
    return step.kind in KINDS and not asks_llm


def share(
    plan: Plan, able: Sequence[Step], registry: Registry, folders: Mapping[str, Path], *, jobs: int, device: str
) -> Second | None:
    """The second process of a run of two; None where there are too few steps that it is able to do.

    Torch gets half of its threads here and there, however the steps are shared out: with other threads some last bits
    would be others.

    Raises:
        UsageError: two are asked for, and the model is on a GPU.
    """
    if jobs < 2:
        return None
    if device != "cpu":
        raise UsageError(f"--jobs 2 is for models on a CPU; this run is on {device}: leave it out, or add --device cpu")
    import torch

    threads = max(1, torch.get_num_threads() // 2)
    torch.set_num_threads(threads)
    return Second(plan, registry, folders, threads) if len(able) >= _FEWEST else None


class Second:
    """The runner's end. Nothing starts before the first job."""

    def __init__(self, plan: Plan, registry: Registry, folders: Mapping[str, Path], threads: int) -> None:
        """`threads`: of torch, in either process."""
        self._arguments = (plan, registry, dict(folders), threads)
        self._process: Any = None
        self._connection: Connection | None = None
        self.usable = True

    def start(self, job: Job) -> None:
        """Begin a step."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
            # Ctrl-C is for the runner, also while the other one is loading: it inherits what is blocked here
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
        assert self._connection is not None
        try:
            self._connection.send(job)
        except OSError:
            self.usable = False

    def news(self, *, patiently: bool = False) -> Iterator[Any]:
        """What came since: calls of the step's progress, its records, at last its `Outcome`.

        Args:
            patiently: wait until something comes.
        """
        if not self.usable or self._connection is None:
            yield Outcome(0.0, failure="the second process is gone")
            return
        try:
            while self._connection.poll(None if patiently else 0):
                patiently = False
                yield self._connection.recv()
        except (EOFError, OSError):
            self.usable = False
            yield Outcome(0.0, failure="the second process was killed")

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        self.usable = False


@dataclass(frozen=True)
class _Reporting:
    """Progress there, told here."""

    send: Callable[[Any], None]

    def start(self, total: int | None, unit: str) -> None:
        self.send(Told("start", (total, unit)))

    def advance(self, n: int = 1) -> None:
        self.send(Told("advance", (n,)))


@dataclass(frozen=True)
class Told:
    """A call of a step's progress."""

    method: str
    arguments: tuple[Any, ...]

    def tell(self, progress: Progress) -> None:
        """Make it here."""
        getattr(progress, self.method)(*self.arguments)


@dataclass
class Listening:
    """A step's progress in the runner that looks for news of the second process now and then."""

    progress: Progress
    look: Callable[[], None]
    every_s: float = 0.2
    _next: float = field(default=0.0, init=False)

    def start(self, total: int | None, unit: str) -> None:
        """See `Progress`."""
        self.progress.start(total, unit)
        self._look()

    def advance(self, n: int = 1) -> None:
        """See `Progress`."""
        self.progress.advance(n)
        self._look()

    def _look(self) -> None:
        if time.monotonic() >= self._next:
            self.look()
            self._next = time.monotonic() + self.every_s


def _work(connection: Connection, plan: Plan, registry: Registry, folders: dict[str, Path], threads: int) -> None:
    """The other end: jobs until the runner closes it or dies."""
    prepare()
    threading.Thread(target=_die_with_the_runner, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    bench = Workbench(plan, Manager(registry), folders, _no_database)
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        began, n = time.monotonic(), 0
        try:
            for record in _records(job, bench, connection.send):
                connection.send(record)
                n += 1
            outcome = Outcome(time.monotonic() - began, n)
        except Exception as error:  # noqa: BLE001 - the runner meets it again, with its traceback
            outcome = Outcome(time.monotonic() - began, n, f"{type(error).__name__}: {error}")
        connection.send(outcome)


def _records(job: Job, bench: Workbench, send: Callable[[Any], None]) -> Iterator[Record]:
    step = bench.plan.step(job.step)
    bench.outputs.update({name: dict(records) for name, records in job.outputs.items()})
    run = RunContext(
        out_dir=bench.folders[step.name],
        seed=step.seed,
        device="cpu",
        done=job.done,
        progress=_Reporting(send),
        evaluate=bench.plan.row.evaluate,
        engines=bench.engines,
    )
    yield from execute(step, bench, run)


def _no_database(step_name: str, record_class: type[Any]) -> list[Any]:
    raise RuntimeError("only the runner reads the database")


def _die_with_the_runner() -> None:
    """A step that went on would write into a folder that the next run uses."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


__all__ = ["Job", "Listening", "Outcome", "Second", "Told", "jobs_for", "share", "suits"]
