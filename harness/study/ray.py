"""Maps over shards in Ray actors: `harness run --executor ray`.

An actor per GPU (per few CPUs where there is none) builds the tool once and gets one item after the other. If a worker
dies, others repeat its items; an exception of the work itself ends the run with its message. Results return to this
process, the only one that writes. Ray is imported when workers are first needed.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Generic

from harness.contract.executors import Item, Result, Tool, Workers, arriving_on
from harness.contract.progress import Progress
from harness.errors import HarnessError, UsageError, masked_argument, masked_url
from harness.startup import prepare
from harness.study.provenance import installed_versions

_log = logging.getLogger(__name__)

_MAX_DEATHS = 3
"""Workers that may die at an item before the run ends: the item kills them."""
_ITEMS_PER_WORKER = 2
"""Items assigned to each worker: the one in progress, and the next, so that it need not wait."""
_STORE_BYTES = 256 << 20
"""Object store of a cluster that is started here, for each worker: a shard's activations are some 100 MB."""
_WARN_AFTER_S = 60.0
"""Seconds without any worker before a warning."""
_CONNECT_TIMEOUT_S = 10.0
"""Seconds in which a cluster's head must answer."""
_VERSIONED = ("interp-harness", "torch", "transformers", "peft", "numpy", "scipy")
"""Packages whose versions can change the bytes of a result."""
_ENVIRONMENT = ("HF_HUB_OFFLINE", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM")
"""Environment variables that workers copy from this process. No keys."""

Resources = dict[str, int]


class RayExecutor:
    """Workers of a Ray cluster: the one at an address, or one on this machine that lives as long as this object."""

    def __init__(self, *, device: str = "auto", address: str | None = None, workers: int | None = None) -> None:
        """Nothing is started yet.

        Args:
            device: torch device of the run; `cpu` keeps workers off the GPUs.
            address: HOST:PORT of a cluster's head, or `auto` for the one that this machine belongs to; None starts one.
            workers: how many; None is one per GPU, or as many as the CPUs allow.

        Raises:
            UsageError: Ray is not installed.
        """
        if find_spec("ray") is None:
            raise UsageError("--executor ray needs Ray: pip install 'interp-harness[ray]'")
        self._device, self._address, self._n_wanted = device, address, workers
        self._connected = False
        self._idle: list[Any] = []

    @property
    def on_gpus(self) -> bool:
        """Whether each worker takes a GPU: the cluster has some, and the run may use them."""
        self._connect()
        return self._n_gpus > 0

    @contextmanager
    def open(self, tool: Tool) -> Iterator[Workers[Tool]]:
        """Give the tool to workers. Afterwards the workers drop it and wait for the next one."""
        self._connect()
        import torch

        # The number of threads changes the order of float additions, and so the last bits.
        threads = torch.get_num_threads()
        n = self._n_wanted or self._n_gpus or max(1, self._n_cpus // threads)
        resources = {"num_gpus": 1, "num_cpus": 0} if self._n_gpus else {"num_gpus": 0, "num_cpus": threads}
        idle, self._idle = self._idle, []
        pool = _Pool(tool, n, resources, "cuda:0" if self._n_gpus else "cpu", threads, idle)
        try:
            yield pool
            self._idle = pool.release()
        finally:
            pool.kill()

    def close(self) -> None:
        """Leave the cluster; end it where it was started here."""
        if self._connected:
            import ray

            self._connected, self._idle = False, []
            ray.shutdown()

    def _connect(self) -> None:
        if self._connected:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        # Ray changed how it hides the GPUs from workers without one, and warns about it at every start.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self._address is None:
            # Ray would lower its workers' priority.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # Ray binds to all interfaces instead of 127.0.0.1 unless it believes that clusters are not supported here.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address is not None:
                _check_address(self._address)
                ray.init(address=self._address, **quiet)
            else:
                self._start_here(quiet)
        except (OSError, ValueError, RuntimeError) as error:
            first = masked_url((str(error).splitlines() or [type(error).__name__])[0])[:300]
            address = masked_argument(self._address or "")
            place = f"reach a Ray cluster at {address}" if address else "start Ray on this machine"
            raise HarnessError(f"cannot {place}: {first}") from error
        self._connected = True
        _let_python_handle_sigterm()
        resources = ray.cluster_resources()
        self._n_cpus = int(resources.get("CPU", 0))
        self._n_gpus = 0 if self._device == "cpu" else int(resources.get("GPU", 0))

    def _start_here(self, quiet: dict[str, Any]) -> None:
        import ray
        import torch

        threads = torch.get_num_threads()
        usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        n_gpus = 0 if self._device == "cpu" else torch.cuda.device_count()
        n = self._n_wanted or n_gpus or max(1, usable // threads)
        ray.init(
            address="local",
            num_cpus=max(usable, n * threads),
            num_gpus=n_gpus,
            include_dashboard=False,
            object_store_memory=n * _STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )


class Worker:
    """The actor's class: one process of the pool. It imports nothing heavy before it has its environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        prepare()

    def start(self, tool: bytes, device: str, threads: int) -> dict[str, str]:
        """Build the tool; return the versions of what results depend on."""
        import torch

        torch.set_num_threads(threads)
        with _as_harness_errors(), arriving_on(device):
            self._tool = pickle.loads(tool)
        return _versions()

    def stop(self) -> None:
        """Drop the tool and free its GPU memory."""
        import gc

        import torch

        del self._tool
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def work(self, function: Callable[..., Any], item: Any) -> tuple[int, Any]:
        """Apply the function; returns how far its progress advanced, and its result."""
        progress = _CountingProgress()
        with _as_harness_errors():
            result = function(self._tool, item, progress)
        return progress.n, result


class _CountingProgress:
    """Progress of a worker: counted here, passed on when the result arrives."""

    def __init__(self) -> None:
        self.n = 0

    def start(self, total: int | None, unit: str) -> None:
        """Ignore: the caller of the map knows the total."""

    def advance(self, n: int = 1) -> None:
        """Count."""
        self.n += n


@dataclass(eq=False)
class _Task:
    """An item: its place in the order, and how many workers died at it."""

    index: int
    function: Callable[..., Any]
    item: Any
    deaths: int = 0


class _Pool(Generic[Tool]):
    """Actors, each with a copy of the tool. Those that die are replaced, if the cluster has room."""

    def __init__(self, tool: Tool, n: int, resources: Resources, device: str, threads: int, idle: list[Any]) -> None:
        import ray

        self.n = n
        try:
            # As bytes: Ray would unpickle the tool itself, before the worker can say on which device.
            self._start = ray.put(ray.cloudpickle.dumps(tool)), device, threads
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise HarnessError(f"{type(tool).__name__} cannot be sent to workers of --executor ray: {error}") from error
        self._actor_class: Any = ray.remote(max_restarts=0, max_task_retries=0, **resources)(Worker)
        self._starting: dict[Any, Any] = {}
        self._assigned: dict[Any, deque[tuple[Any, _Task]]] = {}
        self._deaths = 0
        for i in range(n):
            self._start_worker(idle[i] if i < len(idle) else None)

    def map(
        self, function: Callable[[Tool, Item, Progress], Result], items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, Result]]:
        """See `Workers.map`: at most `_ITEMS_PER_WORKER` items for each worker are read and not yet yielded."""
        left = (_Task(i, function, item) for i, item in enumerate(items))
        waiting: deque[_Task] = deque()
        done: dict[int, tuple[Item, Result]] = {}
        n_read = n_yielded = 0
        while True:
            while n_read - n_yielded < _ITEMS_PER_WORKER * self.n and (task := next(left, None)) is not None:
                waiting.append(task)
                n_read += 1
            if n_yielded == n_read:
                return
            self._assign(waiting)
            for task, (n, result) in self._results(waiting):
                progress.advance(n)
                done[task.index] = task.item, result
            while n_yielded in done:
                yield done.pop(n_yielded)
                n_yielded += 1

    def release(self) -> list[Any]:
        """Take the tool from the workers, and return those that are free; those still at an item are left out."""
        import ray
        from ray.exceptions import RayError

        free = [actor for actor, tasks in self._assigned.items() if not tasks] + list(self._starting.values())
        stopping = [(actor, actor.stop.remote()) for actor in free]
        released = []
        for actor, stopped in stopping:
            try:
                ray.get(stopped)
            except RayError:
                continue  # it died, or could not build the tool: the next pool starts another
            released.append(actor)
        self._assigned = {actor: tasks for actor, tasks in self._assigned.items() if actor not in released}
        self._starting = {ref: actor for ref, actor in self._starting.items() if actor not in released}
        return released

    def kill(self) -> None:
        """Kill the workers, also those at work."""
        import ray

        for actor in (*self._assigned, *self._starting.values()):
            ray.kill(actor)

    def _start_worker(self, actor: Any = None) -> None:
        if actor is None:
            actor = self._actor_class.remote({name: os.environ[name] for name in _ENVIRONMENT if name in os.environ})
        self._starting[actor.start.remote(*self._start)] = actor

    def _assign(self, waiting: deque[_Task]) -> None:
        """Give the waiting items to the workers that have fewest."""
        while waiting and self._assigned:
            actor = min(self._assigned, key=lambda a: len(self._assigned[a]))
            if len(self._assigned[actor]) >= _ITEMS_PER_WORKER:
                return
            task = waiting.popleft()
            self._assigned[actor].append((actor.work.remote(task.function, task.item), task))

    def _results(self, waiting: deque[_Task]) -> Iterator[tuple[_Task, tuple[int, Any]]]:
        """Wait for results and yield them. The items of a dead worker go to the front of `waiting`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        running = {tasks[0][0]: actor for actor, tasks in self._assigned.items() if tasks}
        ready, _ = ray.wait([*running, *self._starting], timeout=_WARN_AFTER_S)
        if not ready and not self._assigned:
            _log.warning("no worker has started yet: the Ray cluster has no room, or loading takes long")
        for ref in ready:
            actor = self._starting.get(ref) or running[ref]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                self._replace(actor, ref, waiting, error)
                continue
            self._deaths = 0
            if self._starting.pop(ref, None) is not None:
                _refuse_other_versions(result)
                self._assigned[actor] = deque()
            else:
                yield self._assigned[actor].popleft()[1], result

    def _replace(self, actor: Any, ref: Any, waiting: deque[_Task], error: Exception) -> None:
        """A worker died: its items go back, and another one is started.

        Raises:
            HarnessError: too many workers died at its item, or one after the other.
        """
        import ray

        self._starting.pop(ref, None)
        tasks = [task for _, task in self._assigned.pop(actor, ())]
        ray.kill(actor)
        self._deaths += 1
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
        if tasks:
            tasks[0].deaths += 1
        if (tasks and tasks[0].deaths == _MAX_DEATHS) or self._deaths >= _MAX_DEATHS * self.n:
            raise HarnessError(
                f"{_MAX_DEATHS} workers died one after the other on the same work (the last: {why}); out of memory? "
                "Use fewer workers (--ray-workers) or smaller batches"
            ) from error
        _log.warning("a worker died (%s); another one repeats its items", why)
        waiting.extendleft(reversed(tasks))
        self._start_worker()


def _let_python_handle_sigterm() -> None:
    """On SIGTERM let Ray's Python handler end the process: Ray's native handler prints a stack trace first."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _check_address(address: str) -> None:
    """Connect once: Ray itself would try for minutes and print many lines.

    Raises:
        OSError: nothing answers at HOST:PORT.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def _versions() -> dict[str, str]:
    installed = installed_versions()
    return {name: installed.get(name, "none") for name in _VERSIONED}


def _refuse_other_versions(theirs: dict[str, str]) -> None:
    for name, version in _versions().items():
        if theirs[name] != version:
            raise HarnessError(
                f"a worker has {name} {theirs[name]} and this process {version}: their results would not be the same; "
                "install the same versions on all machines"
            )


@contextmanager
def _as_harness_errors() -> Iterator[None]:
    """Raise exceptions as `HarnessError`s: not every library's exceptions can be pickled."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(f"{type(error).__name__}: {error}") from error


@contextmanager
def open_executor(name: str, device: str, address: str | None, workers: int | None) -> Iterator[RayExecutor | None]:
    """The executor of that name, `local` or `ray`, inside the block; None is this process.

    Raises:
        UsageError: Ray's settings without Ray.
    """
    if name == "local" and (address is not None or workers is not None):
        raise UsageError("--ray-address and --ray-workers say how --executor ray runs; add it")
    executor = None if name == "local" else RayExecutor(device=device, address=address, workers=workers)
    try:
        yield executor
    finally:
        if executor is not None:
            executor.close()
