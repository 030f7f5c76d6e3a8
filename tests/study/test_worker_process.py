"""Two processes share a run's steps; one stores. The study's own tests say that the results are the same."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.store.writer import Store
from harness.study import runner as runner_module
from harness.study.manager import Manager
from harness.study.registry import Registry
from harness.study.runner import Runner
from harness.study.step import Plan, Step
from harness.study.worker_process import jobs_for
from harness.testing import tiny_traces

PLUGIN = '''
import multiprocessing, os, signal, time
from pathlib import Path
from typing import Literal
from harness import Registration, hookimpl
from harness.config import Config
from harness.records import Checkpoint

class StandInConfig(Config):
    """Where it goes wrong."""

    number: int = 0
    """Makes steps differ."""
    there: Literal["works", "fails", "dies"] = "works"
    """What happens in the worker process."""
    seconds: float = 0.5
    """How long it takes."""

class StandIn:
    def __init__(self, config):
        self.config = config

    def train(self, base, traces, chat, run):
        run.progress.start(2, "step")
        if multiprocessing.parent_process() is not None and self.config.there == "fails":
            raise ValueError("not here")
        if multiprocessing.parent_process() is not None and self.config.there == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(10):
            time.sleep(self.config.seconds / 10)
            run.progress.advance()
        (run.out_dir / "adapter").mkdir()
        (run.out_dir / "pid").write_text(str(os.getpid()))
        return Checkpoint(
            kind="adapter", path=run.out_dir / "adapter", base=base, chat_hash="c", n_parameters=1,
            n_examples=len(traces),
        )

@hookimpl
def harness_trainers():
    return [Registration(name="stand-in", config=StandInConfig, load=lambda: StandIn, summary="a trainer")]
'''

TIMING = """
import os, time
from harness import hookimpl

@hookimpl(wrapper=True)
def harness_run_step(step, stage, execute):
    began = time.monotonic()
    try:
        return (yield)
    finally:
        with open("times.txt", "a") as file:
            file.write(f"{step} {stage} {os.getpid()} {time.monotonic() - began}\\n")
"""

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run four steps that do not need each other."""
    (tmp_path / "standin.py").write_text(PLUGIN)
    (tmp_path / "timing.py").write_text(TIMING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("standin", "timing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    data = tmp_path / "traces.jsonl"
    data.write_text("\n".join(t.model_dump_json() for t in tiny_traces(3)))
    study = {"summary": "s", "model": {"path": "m"}, "data": {"path": str(data)}, "adapter": "stand-in"}
    registry = Registry.model_validate(
        {"version": 1, "default_study": "s", "studies": {"s": study},
         "plugins": [{"name": "stand-in", "stage": "train", "module": "standin"}],
         "observers": [{"name": "timing", "module": "timing"}]}
    )  # fmt: skip

    def go(jobs: int, there: str = "works", device: str = "cpu") -> Any:
        manager = Manager(registry)
        configs = [manager.config("stand-in", {"number": i, "there": there}) for i in range(4)]
        steps = tuple(
            Step(f"train/{i}", "train", "train", "stand-in", c, (), f"k{i}", i) for i, c in enumerate(configs)
        )
        plan = Plan("s", None, registry.studies["s"], 0, steps)
        with Store.open(tmp_path / "results.db") as store:
            return Runner(plan, manager, store, tmp_path / "artifacts", jobs=jobs, device=device).run()

    return go


def pids(folder: Path) -> list[int]:
    """The process that did each step."""
    return [int(next(folder.glob(f"artifacts/train-{i}-*/pid")).read_text()) for i in range(4)]


def statuses(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "results.db") as connection:
        return [r[0] for r in connection.execute("SELECT status FROM step ORDER BY name")]


def test_both_processes_take_part_and_one_stores(run: Run, tmp_path: Path) -> None:
    assert run(2).n_reused == 0
    assert statuses(tmp_path) == ["done"] * 4
    found = pids(tmp_path)
    assert found[0] == os.getpid(), "the first step is the runner's"
    assert found[3] not in (os.getpid(), None), "the last is the other's"
    with sqlite3.connect(tmp_path / "results.db") as connection:
        assert connection.execute("SELECT count(*) FROM checkpoint").fetchone() == (4,)
        order = "SELECT name FROM step JOIN run_step ON step_id = step.id ORDER BY position"
        assert [r[0] for r in connection.execute(order)] == [f"train/{i}" for i in range(4)]
        paths = [json.loads(r[0])["Checkpoint"]["path"] for r in connection.execute("SELECT output_json FROM step")]
    assert all(not Path(p).is_absolute() for p in paths)
    assert run(2).n_reused == 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_wrapper_times_every_step_in_the_process_that_does_it(run: Run, tmp_path: Path, jobs: int) -> None:
    run(jobs)
    times = [line.split() for line in (tmp_path / "times.txt").read_text().splitlines()]
    assert sorted((step, stage) for step, stage, _, _ in times) == [(f"train/{i}", "train") for i in range(4)]
    assert {step: int(pid) for step, _, pid, _ in times} == {f"train/{i}": pid for i, pid in enumerate(pids(tmp_path))}
    assert len({pid for _, _, pid, _ in times}) == jobs
    assert all(float(seconds) >= 0.5 for *_, seconds in times), "a stand-in works for half a second"


def test_one_process_does_all_without_being_asked_for_two(run: Run, tmp_path: Path) -> None:
    run(1)
    assert pids(tmp_path) == [os.getpid()] * 4


@pytest.mark.parametrize("there", ["fails", "dies"])
def test_a_step_that_goes_wrong_there_is_done_here(
    run: Run, tmp_path: Path, there: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(2, there)
    assert statuses(tmp_path) == ["done"] * 4
    assert pids(tmp_path) == [os.getpid()] * 4
    assert "it is done again in the first process" in caplog.text
    assert ("not here" in caplog.text) == (there == "fails")


def test_a_run_that_fails_ends_the_other_process_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def broken(self: Any, begun: Any, record: Any) -> None:
        seen.append(self._worker._process)
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(runner_module.Runner, "_store_record", broken)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        run(2)
    assert not seen[0].is_alive()
    found = statuses(tmp_path)
    assert "running" not in found
    assert "interrupted" in found, "what the other was doing can go on in the next run"
    monkeypatch.undo()


def test_two_processes_on_a_gpu_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--jobs 2 is for models on a CPU; this run is on cuda:0"):
        run(2, device="cuda:0")


def test_two_processes_suit_a_small_model_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(path: str, **evaluate: Any) -> Plan:
        study = {"summary": "s", "model": {"path": path}, "data": {"path": "d"}, "adapter": "x", "evaluate": evaluate}
        registry = Registry.model_validate({"version": 1, "default_study": "s", "plugins": [], "studies": {"s": study}})
        return Plan("s", None, registry.studies["s"], 0, ())

    organism = "package://harness/organism/checkpoint"
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert jobs_for(plan(organism), "cpu") == 2
    assert jobs_for(plan(organism), "cuda:0") == 1
    assert jobs_for(plan(organism, backend="vllm"), "cpu") == 1
    assert jobs_for(plan("Qwen/Qwen2.5-32B-Instruct"), "cpu") == 1
    big = tmp_path / "big"
    big.mkdir()
    with (big / "model.safetensors").open("wb") as file:
        file.truncate(300_000_000)  # sparse: it takes no space
    assert jobs_for(plan(str(big)), "cpu") == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert jobs_for(plan(organism), "cpu") == 1
