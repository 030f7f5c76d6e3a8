"""The command line for tests that call it often: `Warm` begins calls, `Call` is one."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path


def command_environment() -> dict[str, str]:
    """One thread: bit-equal results need the same order of additions. No API keys."""
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "HARNESS_REGISTRY"}
    return {**clean, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Warm:
    """A process that has the libraries and forks a child per call."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for what the calls say."""
        self._folder, self._numbers = folder, itertools.count()
        self._server: subprocess.Popen[str] | None = None

    def start(self, *argv: str, cwd: Path, env: Mapping[str, str]) -> Call:
        """Begin `harness ARGV`."""
        out, err = (self._folder / f"{next(self._numbers)}.{name}" for name in ("out", "err"))
        told = {"argv": argv, "cwd": str(cwd), "env": dict(env), "out": str(out), "err": str(err)}
        return Call(self, int(str(self.ask(told))), out, err)

    def run(
        self, *argv: str, cwd: Path, env: Mapping[str, str], timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`harness ARGV` to its end."""
        call = self.start(*argv, cwd=cwd, env=env)
        code = call.wait(timeout_s)
        return subprocess.CompletedProcess(argv, code, call.out.read_text(), call.err.read_text())

    def ask(self, told: Mapping[str, object]) -> object:
        """A line to the process, and its answer."""
        if self._server is None:
            command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(told), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.communicate()


class Call:
    """A call of the command line.

    Attributes:
        pid: of its process.
        out, err: files with what it says.
    """

    def __init__(self, warm: Warm, pid: int, out: Path, err: Path) -> None:
        self._warm, self.pid, self.out, self.err = warm, pid, out, err

    def wait(self, timeout_s: float) -> int:
        """Its exit code; minus the signal that ended it.

        Raises:
            TimeoutError: it goes on.
        """
        until = time.monotonic() + timeout_s
        while (code := self._warm.ask({"ended": self.pid})) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.pid} goes on after {timeout_s:.0f} s")
            time.sleep(0.02)
        assert isinstance(code, int)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def says(self, text: str, timeout_s: float = 120) -> bool:
        """Wait until it says the text on stderr; false where it does not."""
        until = time.monotonic() + timeout_s
        while not (self.err.is_file() and text in self.err.read_text()):
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True
