"""Mutate the numerics and run the tests meant for them, each mutant in a fork of a process that has the libraries.

The files, their tests and the mutants known to compute the same are in `files.yaml`. Only what runs in the test's own
process sees a mutant; commands started by a test load the files as they are, so the kill rate is a lower bound.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tests.mutants.mutation import Mutant, sample

HERE = Path(__file__).parent
LIBRARIES = (
    "datasets", "hypothesis", "peft", "pytest", "scipy.stats", "sklearn.cluster", "sqlalchemy", "torch",
    "transformers.trainer",
)  # fmt: skip
PATIENCE = 5.0
"""A mutant whose tests take so many times as long as without it, and 20 s more, loops: it is killed."""


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source than its file has."""

    def __init__(self, module: str, file: str, source: str) -> None:
        self.module, self.file, self.source = module, str(Path(file).resolve()), source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of the changed module."""
        return importlib.util.spec_from_file_location(name, self.file, loader=self) if name == self.module else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As usual."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        exec(compile(self.source, self.file, "exec"), module.__dict__)


Tests = Mapping[str, Sequence[str]]
"""File -> its tests."""


@dataclass
class Job:
    """A mutant whose tests run in a child."""

    mutant: Mutant
    pid: int
    since: float
    limit_s: float


def start(mutant: Mutant, tests: Sequence[str], limit_s: float) -> Job:
    """Fork a child that runs the tests on the changed file."""
    pid = os.fork()
    if pid:
        return Job(mutant, pid, time.monotonic(), limit_s)
    code = 70
    try:
        os.setsid()
        for target in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), target)
        name = mutant.file.removesuffix(".py").replace("/", ".")
        name = f"harness_{name}" if name.startswith("plugins.") else name
        sys.meta_path.insert(0, Loader(name, mutant.file, mutant.source))
        import pytest

        slow = [] if any("test_coverage" in t for t in tests) else ["-m", "not slow"]
        code = int(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", *slow, *tests])
        )
    finally:
        os._exit(code)


def ended(job: Job) -> str | None:
    """What became of a mutant; None while its tests run."""
    pid, status = os.waitpid(job.pid, os.WNOHANG)
    if not pid:
        if time.monotonic() - job.since < job.limit_s:
            return None
        os.killpg(job.pid, signal.SIGKILL)
        os.waitpid(job.pid, 0)
        return "killed"
    return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"


def run(
    mutants: Sequence[Mutant], tests: Tests, limits_s: Mapping[str, float], jobs: int
) -> list[tuple[Mutant, str, float]]:
    """Each mutant, what became of it, and the seconds that its tests took."""
    waiting, running, done = list(reversed(mutants)), list[Job](), list[tuple[Mutant, str, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running.append(start(mutant, tests[mutant.file], limits_s[mutant.file]))
        for job in list(running):
            if fate := ended(job):
                running.remove(job)
                took_s = time.monotonic() - job.since
                done.append((job.mutant, fate, took_s))
                say(f"{len(done):4}/{len(mutants)} {fate:8} {took_s:5.1f} s {described(job.mutant)}")
        time.sleep(0.02)
    return done


def described(mutant: Mutant) -> str:
    """Where a mutant is and what it changes."""
    return f"{mutant.file}:{mutant.line}: {mutant.before} -> {mutant.after}"


def say(line: str) -> None:
    """A line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run; exit 1 where the kill rate is below the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="only these files of files.yaml")
    parser.add_argument("--per-file", type=int, default=10, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--floor", type=float, default=0.9, help="least share of killed mutants")
    options = parser.parse_args()
    known = yaml.safe_load((HERE / "files.yaml").read_text())
    tests: Tests = {f: t for f, t in known["files"].items() if not options.files or f in options.files}
    equivalent = {(e["file"], e["before"], e["after"]) for e in known["equivalent"]}
    for library in LIBRARIES:
        importlib.import_module(library)
    sound = [Mutant(file, 1, "", "as it is", Path(file).read_text()) for file in tests]
    unchanged = run(sound, tests, dict.fromkeys(tests, 600.0), options.jobs)
    if broken := [m.file for m, fate, _ in unchanged if fate == "killed"]:
        say(f"the tests of {', '.join(broken)} fail without any mutant")
        return 2
    limits_s = {m.file: PATIENCE * took_s + 20 for m, _, took_s in unchanged}
    drawn = [m for file in tests for m in sample(file, options.per_file, random.Random(f"{options.seed}/{file}"))]
    mutants = [m for m in drawn if (m.file, m.before, m.after) not in equivalent]
    done = run(mutants, tests, limits_s, options.jobs)
    killed, n = Counter(m.file for m, fate, _ in done if fate == "killed"), Counter(m.file for m, *_ in done)
    for file in tests:
        say(f"{file}: {killed[file]} of {n[file]} killed")
    for m in (m for m, fate, _ in done if fate == "survived"):
        say(f"survived: {described(m)}")
    from harness.stats import share as share_of

    share = share_of(killed.total(), n.total())
    say(
        f"{killed.total()} of {n.total()} mutants killed: {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]; "
        f"{len(drawn) - len(mutants)} known to compute the same were left out"
    )
    return int(killed.total() < options.floor * n.total())


if __name__ == "__main__":
    sys.exit(main())
