"""kill -9 at random points, of whatever process: nothing stored is lost or doubled, and the next run ends like any.

HARNESS_KILLS says how many (100; CI has 20): most of them of a run (its runner, its worker process, both), the others
of a dashboard, an export and a database's making.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Warm, command_environment
from tests.outcome import contents, files

RUN = ["run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu"]
KILLS = int(os.environ.get("HARNESS_KILLS", "100"))
OF_OTHERS = KILLS // 10
"""Kills of each command that is not a run."""
LONGEST_S = 6.0
"""A run is killed at most so long after its start."""

pytestmark = pytest.mark.timeout(60 + 60 * KILLS)


def children(pid: int) -> list[int]:
    """Processes begun by a process."""
    try:
        return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]
    except OSError:
        return []


def kill(pids: list[int]) -> int:
    """How many of them could be killed."""
    killed = 0
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        except ProcessLookupError:
            continue
    return killed


def gone(pids: list[int]) -> bool:
    """Whether processes end by themselves; one that is still loading its libraries does so when it has them."""
    until = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(alive, pids))


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_runs_killed_again_and_again_end_like_one_that_was_not(
    tiny_study: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(KILLS)
    left = KILLS - 3 * OF_OTHERS
    env = {**command_environment(), "HARNESS_JOBS": "2"}
    while left > 0:
        folder = tmp_path_factory.mktemp("killed")
        code = None
        while code != 0:
            call = warm.start(*RUN, cwd=folder, env=env)
            victim = "nobody" if left <= 0 else rng.choice(("runner", "runner", "worker", "both"))
            if victim != "nobody":
                time.sleep(rng.uniform(0.1, LONGEST_S))
                workers = children(call.pid)
                killed = kill(workers) if victim in ("worker", "both") else 0
                if victim != "worker":
                    killed += kill([call.pid])
                    assert gone(workers), "a worker process outlived its runner"
                left -= bool(killed)
            code = call.wait(600)
            assert code == 0 or (code == -signal.SIGKILL and victim in ("runner", "both")), call.err.read_text()
        expected, there = contents(tiny_study), contents(folder)
        for table in expected:
            assert there[table] == expected[table], table
        assert files(folder) == files(tiny_study)
        with sqlite3.connect(folder / "results.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert {s for (s,) in connection.execute("SELECT status FROM study_run")} <= {"interrupted", "done"}
        unfinished = [p for p in folder.rglob("*") if p.name.endswith((".part", ".partial", ".tmp"))]
        assert not unfinished


Check = Callable[[Path], None]


def _no_leftovers(folder: Path) -> None:
    assert not [p.name for p in folder.iterdir() if p.name.startswith((".dashboard", ".out"))]


def _whole_schema(folder: Path) -> None:
    with sqlite3.connect(folder / "new.db") as connection:
        assert connection.execute("SELECT count(*) FROM study_run").fetchone() == (0,)


@pytest.mark.parametrize(
    ("command", "check"),
    [
        (("dashboard", "--out", "dashboard"), _no_leftovers),
        (("report", "--export", "out"), _no_leftovers),
        (("db", "upgrade", "--db", "new.db"), _whole_schema),
    ],
    ids=["dashboard", "export", "upgrade"],
)
def test_what_a_killed_command_leaves_is_swept_by_the_next_one(
    tiny_study: Path, warm: Warm, tmp_path: Path, command: tuple[str, ...], check: Check
) -> None:
    for name in ("results.db", "artifacts"):
        (tmp_path / name).symlink_to(tiny_study / name)
    rng = random.Random(KILLS)
    for _ in range(max(1, OF_OTHERS)):
        call = warm.start(*command, cwd=tmp_path, env=command_environment())
        time.sleep(rng.uniform(0.05, 2.0))
        call.signal(signal.SIGKILL)
        call.wait(10)
    done = warm.run(*command, cwd=tmp_path, env=command_environment())
    assert done.returncode == 0, done.stderr
    check(tmp_path)
