"""A step that the others do not need may fail: the run goes on, names it, ends with 1, and the next run retries it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness import AblationScore, Config, Estimate, Registration, hookimpl
from harness.errors import HarnessError, ResultsError
from harness.render.outcome import finish
from harness.render.terminal import make_console
from harness.store.readonly import ask
from harness.store.writer import Store
from harness.study.display import RunSummary
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import Registry, read_registry
from harness.study.registry_file import find_registry
from harness.study.runner import Runner
from harness.study.step import Plan, Step


class CellConfig(Config):
    """Settings of the test's ablation."""

    n: int = 0
    """Makes steps differ."""


class Cell:
    """An ablation of one cell, which fails as it is told."""

    failing: dict[int, Exception] = {}  # noqa: RUF012

    def __init__(self, config: CellConfig) -> None:
        self.config = config

    def measure(self, subject: object, traces: object, run: Any) -> Iterator[AblationScore]:
        if self.config.n in Cell.failing:
            raise Cell.failing[self.config.n]
        yield AblationScore(item="c", scope="component", kl_nats=Estimate(1, 0, 2), n_tokens=1, n_documents=1,
                            n_components=1)  # fmt: skip


class Offering:
    """A plugin that offers it."""

    @hookimpl
    def harness_ablations(self) -> list[Registration[Any]]:
        return [Registration(name="cell", config=CellConfig, load=lambda: Cell, summary="one cell")]


def _step(n: int, *inputs: int) -> Step:
    return Step(f"ablate/{n}", "ablate", "ablate", "cell", CellConfig(n=n), tuple(f"ablate/{i}" for i in inputs),
                f"key{n}", 1)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("harness.study.state.RunState.adapter_subject", lambda *_: None)
    monkeypatch.setattr("harness.study.state.RunState.traces", lambda *_: [])
    monkeypatch.setattr(Cell, "failing", {})
    study = {"summary": "s", "model": {"path": "m"}, "data": {"path": "d"}, "adapter": "x"}
    registry = Registry.model_validate({"version": 1, "default_study": "s", "plugins": [], "studies": {"s": study}})
    manager, store = Manager(registry), Store.open(tmp_path / "results.db")
    manager._load("test", partial(lambda module: module, Offering()), "test")

    def run_steps(*steps: Step) -> RunSummary:
        plan = Plan("s", None, registry.studies["s"], 0, steps)
        return Runner(plan, manager, store, tmp_path / "artifacts").run()

    return run_steps


def _statuses(tmp_path: Path) -> dict[str, tuple[str, str | None]]:
    rows = ask(tmp_path / "results.db", "SELECT name, status, reason FROM step").rows
    return {str(name): (str(status), reason) for name, status, reason in rows}


def test_the_rest_goes_on_what_needs_it_is_held_up_and_the_next_run_does_it_again(run: Any, tmp_path: Path) -> None:
    steps = (_step(0), _step(1), _step(2, 1), _step(3), _step(4))
    Cell.failing[1] = RuntimeError("the disc is round")
    summary = run(*steps)
    assert summary.failed == {"ablate/1": "RuntimeError: the disc is round"}
    assert summary.unfinished == {"ablate/2": "needs ablate/1"}
    assert finish({0: summary}, {}, make_console(stderr=True)) == 1
    statuses = _statuses(tmp_path)
    assert statuses["ablate/1"] == ("failed", "RuntimeError: the disc is round")
    assert {n: s for n, (s, _) in statuses.items()} == {
        "ablate/0": "done", "ablate/1": "failed", "ablate/3": "done", "ablate/4": "done",
    }  # fmt: skip
    assert ask(tmp_path / "results.db", "SELECT status FROM study_run").rows == [("failed",)]
    Cell.failing.clear()
    summary = run(*steps)
    assert (summary.n_reused, summary.failed, summary.unfinished) == (3, {}, {})
    assert finish({0: summary}, {}, make_console(stderr=True)) == 0


def test_a_step_that_most_others_need_ends_the_run_at_once(run: Any, tmp_path: Path) -> None:
    Cell.failing[0] = HarnessError("no room")
    with pytest.raises(HarnessError, match="no room"):
        run(_step(0), _step(1, 0), _step(2, 1), _step(3))
    assert list(_statuses(tmp_path)) == ["ablate/0"]


def test_what_cannot_be_stored_ends_the_run_at_once(run: Any, tmp_path: Path) -> None:
    Cell.failing[0] = ResultsError("the database is locked")
    with pytest.raises(ResultsError):
        run(_step(0), _step(1), _step(2))
    assert list(_statuses(tmp_path)) == ["ablate/0"]


def test_in_the_default_study_the_adapter_is_needed_and_a_baseline_is_not(run: Any, tmp_path: Path) -> None:
    registry = read_registry(find_registry(None))
    manager = Manager(registry)
    plan = make_plan(registry, manager, registry.default_study)
    runner = Runner(plan, manager, Store.open(tmp_path / "other.db"), tmp_path / "artifacts")

    def goes_on(name: str) -> bool:
        position = plan.steps.index(plan.step(name))
        runner._waiting = dict(enumerate(plan.steps[position + 1 :]))
        return runner._goes_on_without(plan.step(name), RuntimeError())

    assert not goes_on("train/rank1-lora")
    assert not goes_on("probe/adapter-activations")
    for name in ("learn/k-means", "train/full-finetune", "judge/batch-topk", "evaluate/base"):
        assert goes_on(name)


def test_a_terminated_run_says_a_word_and_reads_interrupted(tmp_path: Path) -> None:
    """From outside, as a scheduler ends it."""
    command = [sys.executable, "-c", "from harness.cli import main; main()", "run", "--plugin", "rank1-lora"]
    with subprocess.Popen(
        [*command, "--only", "train", "--jobs", "1"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert re.match(r"about .* on this machine; .*B of memory; .*B of disk", next(running.stderr))
        for line in running.stderr:
            if "train/" in line:
                break
        running.send_signal(signal.SIGTERM)
        said = running.stderr.read()
        assert running.wait(60) == 130
    assert said.splitlines()[-1] == "harness: interrupted; what is done is kept, run again to go on"
    assert {status for status, _ in _statuses(tmp_path).values()} == {"interrupted"}
    assert ask(tmp_path / "results.db", "SELECT status FROM study_run").rows == [("interrupted",)]
