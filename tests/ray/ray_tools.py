"""What the tests map, where workers can import it."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.contract.progress import Progress
from harness.errors import ModelError, UnknownName


@dataclass(frozen=True)
class Folder:
    """A place that workers share. Making one (in a worker) leaves a mark there."""

    path: Path

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (self.path,)


def _arrived(path: Path) -> Folder:
    (path / f"made-{os.getpid()}-{time.monotonic_ns()}").touch()
    return Folder(path)


@dataclass(frozen=True)
class Unmakeable:
    """A tool that no worker can make."""

    def __reduce__(self) -> tuple[object, ...]:
        return _refuse, ()


def _refuse() -> Unmakeable:
    raise ModelError("no model folder /nowhere")


class TakesTwo(Exception):
    """Does not survive pickling: its arguments are not those of its `__init__`."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def square(folder: Folder, item: int, progress: Progress) -> tuple[int, int, int]:
    """(square, worker, threads)."""
    progress.advance(item)
    return item * item, os.getpid(), torch.get_num_threads()


def wait_for_another(folder: Folder, item: int, _: Progress) -> int:
    """Item 0 is not done before another worker has begun one."""
    (folder.path / f"at-work-{os.getpid()}").touch()
    until = time.monotonic() + 240
    while item == 0 and len(list(folder.path.glob("at-work-*"))) < 2:
        assert time.monotonic() < until, "no other worker began anything"
        time.sleep(0.01)
    return item


def die_once(folder: Folder, item: int, _: Progress) -> int:
    """The first worker that is given item 3 is killed while it is at it."""
    if item == 3:
        try:
            (folder.path / "killed").touch(exist_ok=False)
        except FileExistsError:
            return item
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()
    return item


def die_always(folder: Folder, item: int, _: Progress) -> int:
    """Item 3 kills whoever is given it."""
    if item == 3:
        (folder.path / f"killed-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()
    return item


def fail(folder: Folder, item: str, _: Progress) -> None:
    """Every kind of failure."""
    (folder.path / f"tried-{time.monotonic_ns()}").touch()
    if item == "harness":
        raise ModelError("the model is not one")
    if item == "name":
        raise UnknownName("benchmark", "mmth", ["math", "code"])
    raise TakesTwo("this", "that")


def change(folder: Folder, item: np.ndarray, _: Progress) -> np.ndarray:
    """A large array."""
    return item + 1


def below(parent: int) -> dict[int, str]:
    """Processes that a process started, and those that they did: pid -> title."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        titles[int(folder.name)] = title

    def is_below(pid: int) -> bool:
        while pid in parents and pid != parent:
            pid = parents[pid]
        return pid == parent

    return {pid: title for pid, title in titles.items() if pid != parent and is_below(pid)}


def worker_processes(parent: int) -> dict[int, str]:
    """Ray's worker processes below a process: pid -> what it is at, in Ray's words."""
    return {pid: title for pid, title in below(parent).items() if title.startswith("ray::Worker")}
