"""One training in several processes: torchrun on this machine, watched by the process that runs the study.

The parent writes the job to a file, starts `torch.distributed.run` on `worker`, and follows its progress file. Each
worker does what a single process would do; transformers' Trainer distributes it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import errors
from harness.contract.context import RunContext
from harness.errors import HarnessError
from harness.model.chat import ChatFormat
from harness.records import ModelRef, Trace

from .recipe import Recipe

JOB, PROGRESS, FAILURE, LOG = "processes.json", "progress.json", "failure.json", "processes.log"
_POLL_S = 0.2
_END_WAIT_S = 30.0
"""How long workers may take to end after an interrupt before they are killed."""


def in_worker() -> bool:
    """Whether this process is one of several that train together."""
    return "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return os.environ.get("RANK", "0") == "0"


def run_processes(
    trainer: object,
    recipe: Recipe,
    base: ModelRef,
    traces: Sequence[Trace],
    chat: ChatFormat,
    run: RunContext,
) -> None:
    """Let `trainer` train in `recipe.processes` processes; return when they are done.

    Raises:
        HarnessError: a worker's own error, or the end of what the workers wrote where they died without one.
        KeyboardInterrupt: after the workers have ended.
    """
    job = {
        "trainer": _name(type(trainer)),
        "config": _name(type(recipe)),
        "recipe": recipe.model_dump(mode="json"),
        "base": base.model_dump(mode="json"),
        "traces": [t.model_dump(mode="json") for t in traces],
        "chat": chat.model_dump(mode="json"),
        "seed": run.seed,
        "device": run.device,
        "out_dir": str(run.out_dir),
    }
    for name in (PROGRESS, FAILURE):
        (run.out_dir / name).unlink(missing_ok=True)
    (run.out_dir / JOB).write_text(json.dumps(job), encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={recipe.processes}"]
    command = [sys.executable, *launcher, "-m", "harness_plugins.trainers.worker", str(run.out_dir / JOB)]
    with (run.out_dir / LOG).open("wb") as log:
        workers = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            _follow(workers, run)
        except BaseException:
            _end(workers)
            raise
    if workers.returncode:
        raise _failure(run.out_dir, workers.returncode)
    for name in (JOB, PROGRESS, LOG):
        (run.out_dir / name).unlink(missing_ok=True)


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


class FileProgress:
    """A worker's progress, for the parent to read."""

    def __init__(self, file: Path) -> None:
        self._file, self._total, self._done = file, 0, 0

    def start(self, total: int | None, unit: str) -> None:
        """Begin."""
        self._total, self._done = total or 0, 0
        self._write()

    def advance(self, n: int = 1) -> None:
        """`n` more steps."""
        self._done += n
        self._write()

    def _write(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps([self._total, self._done]))
        fresh.replace(self._file)


def write_failure(out_dir: Path, error: HarnessError) -> None:
    """Keep a worker's error for the parent."""
    (out_dir / FAILURE).write_text(json.dumps([type(error).__name__, str(error)]), encoding="utf-8")


def _follow(workers: subprocess.Popen[bytes], run: RunContext) -> None:
    started, seen = False, 0
    while True:
        ended = workers.poll() is not None
        try:
            total, done = json.loads((run.out_dir / PROGRESS).read_text())
        except (OSError, ValueError):
            total, done = 0, 0
        if total and not started:
            run.progress.start(total, "step")
            started = True
        if done > seen:
            run.progress.advance(done - seen)
            seen = done
        if ended:
            return
        time.sleep(_POLL_S)


def _end(workers: subprocess.Popen[bytes]) -> None:
    """Ask the process group to end, then kill it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(workers.pid, number)
            workers.wait(_END_WAIT_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _die_with_parent() -> None:
    """On Linux, have torchrun ended when the parent dies, however that happens; it ends its workers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _failure(out_dir: Path, code: int) -> HarnessError:
    try:
        name, text = json.loads((out_dir / FAILURE).read_text(encoding="utf-8"))
        kind: Any = getattr(errors, name, HarnessError)
        return kind(text) if name != "UnknownName" else HarnessError(text)
    except (OSError, ValueError):
        lines = [x for x in (out_dir / LOG).read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
        named = [x for x in lines if re.search(r"\b[A-Z]\w*(?:Error|Exception)\b", x) and "ChildFailed" not in x]
        last = (named or lines or ["nothing"])[-1]
        return HarnessError(f"a training process ended with {code}: {last.strip()[:300]} (all of it: {out_dir / LOG})")
