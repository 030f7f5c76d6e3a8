"""kill -9 at ten random points: every request is sent once, but for those in flight at a kill, and nothing is lost.

A server cannot be asked to forget: a request that it has, and whose answer was not in the journal when the process
died, is sent once more by the next run. Nothing else may be.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Warm

WORKER = Path(__file__).with_name("forking_worker.py")
VOLATILE = {"id", "step_id", "stored_at", "submitted_at", "latency_s", "n_attempts"}
"""Columns that say when and how fast, or that number rows in the order in which answers came."""


class Ledger:
    """What the server got, against what the journal had when a process died."""

    def __init__(self, vendor: Any, database: Path) -> None:
        self.vendor, self.database = vendor, database
        self.lost: Counter[str] = Counter()
        self.most_lost = 0

    def sent(self) -> Counter[str]:
        """Prompt -> how often the server got it."""
        return Counter(seen.body["messages"][-1]["content"] for seen in list(self.vendor.seen))

    def settle(self) -> None:
        """After a kill: whatever was in the sockets has reached the server; what is not journalled is lost."""
        quiet_since, n = time.monotonic(), -1
        while time.monotonic() - quiet_since < 0.2:
            if len(self.vendor.seen) != n or self.vendor.connections:
                quiet_since, n = time.monotonic(), len(self.vendor.seen)
            time.sleep(0.01)
        answered = self.prompts("ok")
        now = [p for p, times in self.sent().items() if p not in answered and times > self.lost[p]]
        assert set(now) <= self.prompts("begun"), "a call that was sent is in doubt until it is answered"
        self.lost.update(now)
        self.most_lost = max(self.most_lost, len(now))

    def prompts(self, status: str) -> set[str]:
        """Prompts whose calls have this status in the journal."""
        with sqlite3.connect(self.database) as connection:
            try:
                rows = connection.execute("SELECT request_json FROM llm_call WHERE status = ?", (status,)).fetchall()
            except sqlite3.OperationalError:  # killed before there were tables
                return set()
        return {json.loads(row[0])["user"] for row in rows}


def contents(database: Path, *tables: str) -> dict[str, list[Any]]:
    """The rows of tables, in an order of their own, without what says when and how fast."""
    found = {}
    with sqlite3.connect(database) as connection:
        connection.row_factory = sqlite3.Row
        for table in tables:
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            found[table] = sorted(str({k: row[k] for k in row.keys() if k not in VOLATILE}) for row in rows)
            assert found[table], table
    return found


def by_prompt(vendor: Any, answer: Any) -> None:
    """Answer every prompt with something of its own, after a while."""

    def choose(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        judgement = {"explanation": f"says {len(prompt)}", "classification": len(prompt) % 3}
        text = json.dumps({**judgement, "classification_reasoning": "r"})
        if "identify high-level functional role categories" in prompt:
            names = ("tokens", "contexts", "spare_1", "spare_2", "spare_3")
            made = [{"string_id": n, "name": n.title(), "definition": "Some.", "examples": []} for n in names]
            text = json.dumps({"categories": made, "summary": "two"})
        elif "Reply with ONLY the category string_id" in prompt:
            text = "tokens"
        return answer(text=text, sleep_s=0.03)

    vendor.choose = choose


Task = tuple[int, Callable[[], int]]
"""A task that was begun: its process's id, and what waits for its exit code, as `subprocess` says it."""


class Worker:
    """A process that forks a child per task."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def begin(self, database: Path) -> Task:
        """Start asking."""
        assert self.process.stdin is not None
        print(database, file=self.process.stdin, flush=True)
        return self._read(), self._read

    def _read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


def kill_ten_times(vendor: Any, begin: Callable[[], Task], ledger: Ledger, most: int, rng: random.Random) -> None:
    """Begin the task; kill it after 1 to `most` more requests; ten times. Then let it end."""
    for kill in range(11):
        enough = len(vendor.seen) + rng.randint(1, most)
        # where this process gets no time, the child must not come to its end before it is killed
        vendor.hold_after = enough + 2 if kill < 10 else math.inf
        child, end = begin()
        if kill < 10:
            until = time.monotonic() + 60
            while len(vendor.seen) < enough and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(rng.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            vendor.hold_after = math.inf
        assert end() == (-signal.SIGKILL if kill < 10 else 0), f"kill {kill}: there must be more calls"
        ledger.settle()


def check(ledger: Ledger, in_flight: int) -> None:
    """Each request once, and once more for each time it was in flight at a kill."""
    assert ledger.most_lost <= in_flight, "more calls were lost than can be in flight"
    assert sum(ledger.lost.values()) > 0, "no kill fell into a call: this test tests nothing"
    assert ledger.sent() == Counter(ledger.sent().keys()) + ledger.lost


def test_calls_killed_at_ten_random_points(vendor: Any, answer: Any, tmp_path: Path) -> None:
    by_prompt(vendor, answer)
    ledger, whole = Ledger(vendor, tmp_path / "killed.db"), tmp_path / "whole.db"
    with Worker() as worker:
        kill_ten_times(vendor, lambda: worker.begin(ledger.database), ledger, 7, random.Random(0))
        check(ledger, in_flight=8)
        assert set(ledger.sent()) == {f"question {i}" for i in range(80)}
        assert ledger.prompts("begun") == set(), "all were answered in the end"
        _, end = worker.begin(whole)
        assert end() == 0
    assert contents(ledger.database, "llm_call") == contents(whole, "llm_call")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_ten_random_points_ends_with_the_same_rows(
    vendor: Any, answer: Any, mini_study: Path, warm: Warm, tmp_path: Path
) -> None:
    by_prompt(vendor, answer)
    whole, ledger = tmp_path / "whole.db", Ledger(vendor, tmp_path / "results.db")

    def begin(*more: str) -> Task:
        argv = ["run", "--plugin", "mini", "--device", "cpu", "--provider", "openai:gpt-5-mini", *more]
        call = warm.start(*argv, cwd=tmp_path, env=os.environ)
        return call.pid, lambda: call.wait(300)

    with sqlite3.connect(ledger.database) as source, sqlite3.connect(whole) as copy:
        source.backup(copy)
    _, end = begin("--db", str(whole))
    assert end() == 0
    n_calls = len(vendor.seen)
    vendor.seen.clear()
    kill_ten_times(vendor, begin, ledger, n_calls // 12, random.Random(1))
    check(ledger, in_flight=4)
    tables = ("llm_call", "explanation", "category", "category_assignment")
    assert contents(ledger.database, *tables) == contents(whole, *tables)
