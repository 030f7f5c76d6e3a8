"""Maps over shards in Ray actors: `harness run --executor ray`.

An actor per GPU (per few CPUs where there is none) makes the tool once and is handed one item after the other. What a
worker that dies had in hand goes to others; what the work itself raises ends the run with its own sentence. Results
return to this process, the only one that writes. Ray is imported when workers are first wanted.
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
from harness.errors import HarnessError, UsageError
from harness.startup import prepare
from harness.study.provenance import installed_versions

_log = logging.getLogger(__name__)

_LIVES = 3
"""Workers that an item may lose before it is given up: it is what kills them."""
_AHEAD = 2
"""Items in each worker's hands: the one it does, and the next, so that it need not wait for us."""
_STORE_BYTES = 256 << 20
"""Object store of a cluster that is started here, for each worker: a shard's activations are some 100 MB."""
_SAY_S = 60.0
"""Seconds without any worker before that is said."""
_CONNECTS_S = 10.0
"""Seconds in which a cluster's head must answer."""
_SAME = ("interp-harness", "torch", "transformers", "peft", "numpy", "scipy")
"""Packages whose versions decide the bytes of a result."""
_ENVIRONMENT = ("HF_HUB_OFFLINE", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM")
"""What workers take over from this process's environment. No keys."""


Resources = dict[str, int]


class RayExecutor:
    """Workers of a Ray cluster: the one at an address, or one on this machine that lives as long as this object."""

    def __init__(self, *, device: str = "auto", address: str | None = None, workers: int | None = None) -> None:
        """Nothing is started yet.

        Args:
            device: torch device of the run; `cpu` keeps workers off the GPUs.
            address: HOST:PORT of a cluster's head, or `auto` for the one that this machine belongs to; None starts one.
            workers: how many; None is one per GPU, or as many as the CPUs have room for.

        Raises:
            UsageError: Ray is not installed.
        """
        if find_spec("ray") is None:
            raise UsageError("--executor ray needs Ray: pip install 'interp-harness[ray]'")
        self._device, self._address, self._wanted = device, address, workers
        self._connected = False
        self._idle: list[Any] = []

    @property
    def on_gpus(self) -> bool:
        """Whether workers take a GPU each: the cluster has some, and the run may use them."""
        self._connect()
        return self._n_gpus > 0

    @contextmanager
    def open(self, tool: Tool) -> Iterator[Workers[Tool]]:
        """Give the tool to workers; they stay afterwards, without it, for the next one."""
        self._connect()
        import torch

        # Sums of other numbers of threads have other bits.
        threads = torch.get_num_threads()
        n = self._wanted or self._n_gpus or max(1, self._n_cpus // threads)
        resources = {"num_gpus": 1, "num_cpus": 0} if self._n_gpus else {"num_gpus": 0, "num_cpus": threads}
        idle, self._idle = self._idle, []
        pool = _Pool(tool, n, resources, "cuda:0" if self._n_gpus else "cpu", threads, idle)
        try:
            yield pool
            self._idle = pool.let_go()
        finally:
            pool.end()

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
        # Ray hides a zero-GPU worker's GPUs in another way than it used to, and says so with every start.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self._address is None:
            # Ray lowers its workers' priority, so that they would wait for everything else on the machine.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # Ray takes 127.0.0.1 for "any interface" unless it believes that clusters are not to be had here.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address is not None:
                _refuse_nobody(self._address)
                ray.init(address=self._address, **quiet)
            else:
                self._start_here(quiet)
        except (OSError, ValueError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:300]
            place = f"reach a Ray cluster at {self._address}" if self._address else "start Ray on this machine"
            raise HarnessError(f"cannot {place}: {first}") from error
        self._connected = True
        _end_without_a_stack()
        there = ray.cluster_resources()
        self._n_cpus = int(there.get("CPU", 0))
        self._n_gpus = 0 if self._device == "cpu" else int(there.get("GPU", 0))

    def _start_here(self, quiet: dict[str, Any]) -> None:
        import ray
        import torch

        threads = torch.get_num_threads()
        usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        n_gpus = 0 if self._device == "cpu" else torch.cuda.device_count()
        n = self._wanted or n_gpus or max(1, usable // threads)
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
    """One process of the pool: the actor's class. It imports nothing heavy before it has its environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        prepare()

    def start(self, tool: bytes, device: str, threads: int) -> dict[str, str]:
        """Make the tool; answer with the versions of what results depend on."""
        import torch

        torch.set_num_threads(threads)
        with _in_sentences(), arriving_on(device):
            self._tool = pickle.loads(tool)
        return _versions()

    def stop(self) -> None:
        """Forget the tool; a GPU that it filled is free."""
        import gc

        import torch

        del self._tool
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def work(self, function: Callable[..., Any], item: Any) -> tuple[int, Any]:
        """How far the function said that it went, and its result."""
        progress = _Counted()
        with _in_sentences():
            result = function(self._tool, item, progress)
        return progress.n, result


class _Counted:
    """Progress of a worker: counted, and told where the result arrives."""

    def __init__(self) -> None:
        self.n = 0

    def start(self, total: int | None, unit: str) -> None:
        """Ignore: whoever opened the map knows the total."""

    def advance(self, n: int = 1) -> None:
        """Count."""
        self.n += n


@dataclass(eq=False)
class _Task:
    """An item on its way: its place in the order, and the workers that it has lost."""

    index: int
    function: Callable[..., Any]
    item: Any
    lost: int = 0


class _Pool(Generic[Tool]):
    """Actors with a tool each. Those that die are replaced; a replacement that finds no room is not waited for."""

    def __init__(self, tool: Tool, n: int, resources: Resources, device: str, threads: int, idle: list[Any]) -> None:
        import ray

        self.n = n
        try:
            # By value: Ray's own pickling would make the tool before the worker can say where it is to lie.
            self._start = ray.put(ray.cloudpickle.dumps(tool)), device, threads
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise HarnessError(f"{type(tool).__name__} cannot be sent to workers of --executor ray: {error}") from error
        self._kind: Any = ray.remote(max_restarts=0, max_task_retries=0, **resources)(Worker)
        self._starting: dict[Any, Any] = {}
        self._hands: dict[Any, deque[tuple[Any, _Task]]] = {}
        self._deaths = 0
        for i in range(n):
            self._hire(idle[i] if i < len(idle) else None)

    def map(
        self, function: Callable[[Tool, Item, Progress], Result], items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, Result]]:
        """See `Workers.map`: at most `_AHEAD` items for each worker are read and not yet given back."""
        left = (_Task(i, function, item) for i, item in enumerate(items))
        waiting: deque[_Task] = deque()
        done: dict[int, tuple[Item, Result]] = {}
        n_read = n_given = 0
        while True:
            while n_read - n_given < _AHEAD * self.n and (task := next(left, None)) is not None:
                waiting.append(task)
                n_read += 1
            if n_given == n_read:
                return
            self._hand_out(waiting)
            for task, (n, result) in self._results(waiting):
                progress.advance(n)
                done[task.index] = task.item, result
            while n_given in done:
                yield done.pop(n_given)
                n_given += 1

    def let_go(self) -> list[Any]:
        """The workers without their tool, but for those still at an item. Who is making it makes it first."""
        import ray
        from ray.exceptions import RayError

        free = [actor for actor, hand in self._hands.items() if not hand] + list(self._starting.values())
        stopping = [(actor, actor.stop.remote()) for actor in free]
        kept = []
        for actor, stopped in stopping:
            try:
                ray.get(stopped)
            except RayError:
                continue  # it died, or could not make the tool: the next pool hires another
            kept.append(actor)
        self._hands = {actor: hand for actor, hand in self._hands.items() if actor not in kept}
        self._starting = {ref: actor for ref, actor in self._starting.items() if actor not in kept}
        return kept

    def end(self) -> None:
        """End the workers, also those at work."""
        import ray

        for actor in (*self._hands, *self._starting.values()):
            ray.kill(actor)

    def _hire(self, actor: Any = None) -> None:
        if actor is None:
            actor = self._kind.remote({name: os.environ[name] for name in _ENVIRONMENT if name in os.environ})
        self._starting[actor.start.remote(*self._start)] = actor

    def _hand_out(self, waiting: deque[_Task]) -> None:
        """Give the items that wait to those who have least in their hands."""
        while waiting and self._hands:
            actor = min(self._hands, key=lambda a: len(self._hands[a]))
            if len(self._hands[actor]) >= _AHEAD:
                return
            task = waiting.popleft()
            self._hands[actor].append((actor.work.remote(task.function, task.item), task))

    def _results(self, waiting: deque[_Task]) -> Iterator[tuple[_Task, tuple[int, Any]]]:
        """Wait until something happens: results that arrived. What a dead worker held is put in front of `waiting`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        held = {hand[0][0]: actor for actor, hand in self._hands.items() if hand}
        ready, _ = ray.wait([*held, *self._starting], timeout=_SAY_S)
        if not ready and not self._hands:
            _log.warning("no worker has started yet: the Ray cluster has no room, or loading takes long")
        for ref in ready:
            actor = self._starting.get(ref) or held[ref]
            try:
                found = ray.get(ref)
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                self._bury(actor, ref, waiting, error)
                continue
            self._deaths = 0
            if self._starting.pop(ref, None) is not None:
                _refuse_other_versions(found)
                self._hands[actor] = deque()
            else:
                yield self._hands[actor].popleft()[1], found

    def _bury(self, actor: Any, ref: Any, waiting: deque[_Task], error: Exception) -> None:
        """A worker died: what it had goes back, and another one is hired.

        Raises:
            HarnessError: its item has lost too many workers, or one worker after the other dies.
        """
        import ray

        self._starting.pop(ref, None)
        tasks = [task for _, task in self._hands.pop(actor, ())]
        ray.kill(actor)
        self._deaths += 1
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
        if tasks:
            tasks[0].lost += 1
        if (tasks and tasks[0].lost == _LIVES) or self._deaths >= _LIVES * self.n:
            raise HarnessError(
                f"{_LIVES} workers died one after the other on the same work (the last: {why}); out of memory? Use "
                "fewer workers (--ray-workers) or smaller batches"
            ) from error
        _log.warning("a worker died (%s); what it was doing goes to another", why)
        waiting.extendleft(reversed(tasks))
        self._hire()


def _end_without_a_stack() -> None:
    """On SIGTERM let Ray's Python handler end the process; its native one, laid over that, prints a stack first."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _refuse_nobody(address: str) -> None:
    """Ray itself tries for minutes, and says so in many lines.

    Raises:
        OSError: nobody answers at HOST:PORT.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECTS_S).close()


def _versions() -> dict[str, str]:
    installed = installed_versions()
    return {name: installed.get(name, "none") for name in _SAME}


def _refuse_other_versions(theirs: dict[str, str]) -> None:
    for name, version in _versions().items():
        if theirs[name] != version:
            raise HarnessError(
                f"a worker has {name} {theirs[name]} and this process {version}: their results would not be the same; "
                "install the same versions on all machines"
            )


@contextmanager
def _in_sentences() -> Iterator[None]:
    """Errors as `HarnessError`s: not every library's exceptions survive the way to another process."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(f"{type(error).__name__}: {error}") from error


@contextmanager
def opened(name: str, device: str, address: str | None, workers: int | None) -> Iterator[RayExecutor | None]:
    """The executor of that name, `local` or `ray`; None is the process itself.

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
