"""A worker process beside the runner's, for steps that do not need each other: a small model leaves a core idle.

The runner hands it a step whose inputs are done and goes on with another one; only the runner stores what comes back. A
step that fails in the worker is done again by the runner, which then says what is wrong.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness.contract.context import RunContext
from harness.contract.progress import Progress
from harness.contract.settings import EvaluateConfig
from harness.errors import UsageError
from harness.model.folders import local_model
from harness.startup import prepare
from harness.study.manager import Manager
from harness.study.state import RunState
from harness.study.step import Plan, Step
from harness.study.steps import kind_of
from harness.study.study_config import PluginList

_SMALL_BYTES = 200e6
"""Weights of a model that two processes may hold at once without asking."""
_MIN_STEPS = 4
"""Steps it could do, below which starting it takes longer than it saves."""


@dataclass(frozen=True)
class Job:
    """A step to be done.

    Attributes:
        step: its name.
        done: items that are stored already.
        outputs: artefact records of its inputs, by step.
        companions: steps that its pass through the model is made for, too.
    """

    step: str
    done: frozenset[str]
    outputs: Mapping[str, Mapping[str, Any]]
    companions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a step ended in the worker: its wall time in seconds, and why it failed if it did."""

    wall_s: float
    failure: str | None = None


@dataclass(frozen=True)
class ProgressMessage:
    """A call of a step's progress in the worker."""

    method: str
    arguments: tuple[Any, ...]

    def repeat_on(self, progress: Progress) -> None:
        """Make the same call in this process."""
        getattr(progress, self.method)(*self.arguments)


def jobs_for(plan: Plan, device: str) -> int:
    """How many processes suit a plan: two on a CPU with two cores and a model that is small on disk, else one."""
    folder, backend = local_model(plan.study.model.path), plan.study.settings(EvaluateConfig).backend
    if device != "cpu" or (os.cpu_count() or 1) < 2 or backend != "hf" or folder is None:
        return 1
    files = [folder] if folder.is_file() else [file for file in folder.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return 2 if size <= _SMALL_BYTES else 1


def open_worker(
    plan: Plan, able: Sequence[Step], manager: Manager, folders: Mapping[str, Path], *, jobs: int, device: str
) -> WorkerProcess | None:
    """The worker process of a run of two; None where there are too few steps that it is able to do.

    Each of the two processes gets half of torch's threads, however the steps are shared out: another number of threads
    adds floats in another order.

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
    return WorkerProcess(plan, manager, folders, threads) if len(able) >= _MIN_STEPS else None


class WorkerProcess:
    """The runner's end. Nothing starts before the first job.

    Attributes:
        usable: whether it can be given steps; it cannot once it was killed.
    """

    def __init__(self, plan: Plan, manager: Manager, folders: Mapping[str, Path], threads: int) -> None:
        """`threads`: of torch, in either process."""
        self._arguments = (plan, manager.registry, manager.loaded(), dict(folders), threads)
        self._process: Any = None
        self._connection: Connection | None = None
        self.usable = True

    def start(self, job: Job) -> None:
        """Begin a step."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, workers_end = context.Pipe()
            self._process = context.Process(target=_work, args=(workers_end, *self._arguments), daemon=True)
            # Ctrl-C is for the runner, also while the worker is loading: it inherits what is blocked here
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            workers_end.close()
        assert self._connection is not None
        try:
            self._connection.send(job)
        except OSError:
            self.usable = False

    def poll(self, *, block: bool = False) -> Iterator[Any]:
        """What came since the last call: `ProgressMessage`s, the step's records, at last its `Outcome`.

        Args:
            block: wait until something comes.
        """
        if not self.usable or self._connection is None:
            yield Outcome(0.0, failure="the worker process is gone")
            return
        try:
            while self._connection.poll(None if block else 0):
                block = False
                yield self._connection.recv()
        except (EOFError, OSError):
            self.usable = False
            yield Outcome(0.0, failure="the worker process was killed")

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        self.usable = False


@dataclass
class PollingProgress:
    """A step's progress in the runner, which polls the worker process now and then.

    Attributes:
        progress: where the step's progress goes.
        poll: called at most every `every_s` seconds.
        every_s: in seconds.
    """

    progress: Progress
    poll: Callable[[], None]
    every_s: float = 0.2
    _next: float = field(default=0.0, init=False)

    def start(self, total: int | None, unit: str) -> None:
        """See `Progress`."""
        self.progress.start(total, unit)
        self._poll()

    def advance(self, n: int = 1) -> None:
        """See `Progress`."""
        self.progress.advance(n)
        self._poll()

    def _poll(self) -> None:
        if time.monotonic() >= self._next:
            self.poll()
            self._next = time.monotonic() + self.every_s


@dataclass(frozen=True)
class _SendingProgress:
    """A step's progress in the worker process, sent to the runner."""

    send: Callable[[Any], None]

    def start(self, total: int | None, unit: str) -> None:
        self.send(ProgressMessage("start", (total, unit)))

    def advance(self, n: int = 1) -> None:
        self.send(ProgressMessage("advance", (n,)))


def _work(
    connection: Connection, plan: Plan, registry: PluginList, plugins: Sequence[str], folders: dict[str, Path],
    threads: int,
) -> None:  # fmt: skip
    """The worker's end: jobs until the runner closes the connection or dies."""
    prepare()
    threading.Thread(target=_die_with_the_runner, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    manager = Manager(registry)
    for name in plugins:  # their modules may wrap steps
        manager.offer(name)
    state = RunState(plan, manager, folders, _no_database)
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        began, failure = time.monotonic(), None
        step = plan.step(job.step)
        try:
            manager.run_step(step.name, step.stage, partial(_send_records, job, step, state, connection.send))
        except Exception as error:  # noqa: BLE001 - the runner does the step again and raises it with its traceback
            failure = f"{type(error).__name__}: {error}"
        connection.send(Outcome(time.monotonic() - began, failure))


def _send_records(job: Job, step: Step, state: RunState, send: Callable[[Any], None]) -> int:
    state.companions[step.name] = job.companions
    state.outputs.update({name: dict(records) for name, records in job.outputs.items()})
    run = RunContext(
        out_dir=state.folders[step.name], seed=step.seed, done=job.done, progress=_SendingProgress(send),
        evaluate=state.plan.study.settings(EvaluateConfig), engines=state.engines, held_out=state.held_out,
    )  # fmt: skip
    n = 0
    for record in kind_of(step).execute(step, state, run):
        send(record)
        n += 1
    return n


def _no_database(step_name: str, record_class: type[Any]) -> list[Any]:
    raise RuntimeError("only the runner reads the database")


def _die_with_the_runner() -> None:
    """A step that went on would write into a folder that the next run uses."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
