"""Probes of one pass: captured together with the bytes that each has alone, in one process or two, killed or not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.activations.capture import Part, Reader, capture_together
from harness.config import Config
from harness.contract.context import RunContext
from harness.contract.progress import Progress, SilentProgress
from harness.errors import HarnessError
from harness.model.subject import Subject
from harness.store.writer import Store
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.runner import Runner
from harness.testing import tiny_traces
from harness_plugins.probes import adapter_activations, mlp_neurons, random_directions, shuffled_directions
from harness_plugins.probes.random_directions import probe as random_probe

pytestmark = pytest.mark.timeout(900)  # the fixture runs a study

TRACES = tiny_traces(9)
ON_ADAPTER: list[tuple[Any, dict[str, Any]]] = [
    (adapter_activations, {"unit": "zscore"}),
    (adapter_activations, {"unit": "write", "dtype": "float32"}),
    (random_directions, {}),
    (shuffled_directions, {"dtype": "float32"}),
    (mlp_neurons, {"adapter": True, "n_per_layer": 3}),
]


def _probes(**config: Any) -> list[Any]:
    probes = []
    for module, settings in ON_ADAPTER:
        (registration,) = module.harness_probes()
        made: Config = registration.config(shard_tokens=300, batch_tokens=400, **settings, **config)
        probes.append(registration.implementation()(made))
    return probes


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Interrupted(Exception):
    """Stands for a kill."""


class StopAfter(SilentProgress):
    """Interrupts after some documents."""

    def __init__(self, n: int) -> None:
        self.left = n

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left < 0:
            raise Interrupted


@pytest.mark.parametrize("numerics", ["modules", "in-place"])
def test_each_set_has_the_bytes_that_it_has_alone(tiny_subject: Subject, tmp_path: Path, numerics: str) -> None:
    """Also where a kill left one set ahead of the others. No tolerance: the batches are the same."""
    probes = _probes(numerics=numerics)
    alone, together = ([RunContext(out_dir=tmp_path / w / str(i), seed=i) for i in range(len(probes))] for w in "at")
    for probe, run in zip(probes, alone, strict=True):
        probe.read(tiny_subject, TRACES, run)

    def captures(progress: Progress) -> None:
        capture_together(
            tiny_subject, TRACES, [p.capture(tiny_subject, r) for p, r in zip(probes, together, strict=True)],
            replace(together[0], progress=progress),
        )  # fmt: skip

    with pytest.raises(Interrupted):
        captures(StopAfter(5))
    ahead = sorted(together[2].out_dir.rglob("shard-*.json"))
    assert ahead, "the kill came before the first shard"
    ahead[-1].unlink()  # the others have closed this shard, and this one has not
    captures(SilentProgress())
    for probe, run in zip(probes, together, strict=True):
        probe.read(tiny_subject, TRACES, run)
    for before, after in zip(alone, together, strict=True):
        assert _files(after.out_dir) == _files(before.out_dir)


def test_a_set_that_is_all_there_loads_no_worker(tiny_subject: Subject, tmp_path: Path) -> None:
    class NoWorkers:
        on_gpus = False

        def open(self, tool: object) -> Any:
            raise AssertionError("a worker was asked for")

    probe, run = _probes()[2], RunContext(out_dir=tmp_path, seed=0)
    first = probe.read(tiny_subject, TRACES, run)
    assert probe.read(tiny_subject, TRACES, replace(run, executor=NoWorkers())) == first


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """(adapter on, sites) of every pass over a shard in this process."""
    calls: list[tuple[bool, int]] = []
    original = Reader.read

    def read(self: Reader, parts: Sequence[Part], progress: Progress) -> Any:
        calls.append((self.adapter_on, len(self.sites)))
        return original(self, parts, progress)

    monkeypatch.setattr(Reader, "read", read)
    return calls


@pytest.fixture
def folder(tiny_study: Path, tmp_path: Path) -> Path:
    """A folder in which the study has run, with all of the text read."""
    return Path(shutil.copytree(tiny_study, tmp_path / "study"))


def _runner(folder: Path, store: Store, *, jobs: int = 1, force: bool = False) -> Runner:
    registry = read_registry(find_registry(None))
    manager = Manager(registry)
    settings = {"features": {"documents": 5}}
    plan = make_plan(registry, manager, "rank1-lora", preset="tiny", settings=settings, only=["train", "probe"])
    return Runner(plan, manager, store, folder / "artifacts", jobs=jobs, force=force)


def _run(folder: Path, **how: Any) -> dict[str, dict[str, bytes]]:
    """Read five documents with the study's probes; the files of each probe."""
    with Store.open(folder / "results.db") as store:
        runner = _runner(folder, store, **how)
        summary = runner.run()
        assert not summary.failed
    return {s.name: _files(runner.folders[s.name]) for s in runner.plan.steps if s.stage == "probe"}


def test_a_run_makes_one_pass_per_model_and_two_processes_write_the_same(
    folder: Path, tmp_path: Path, reads: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    monkeypatch.setattr("harness.study.worker_process._MIN_STEPS", 1)
    made = _run(folder)
    assert sorted(adapter_on for adapter_on, _ in reads) == [False, True]
    assert _run(other, jobs=2) == made
    reads.clear()
    assert _run(folder) == made
    assert not reads, "what is done is not read again"
    (lost,) = (folder / "artifacts" / name for name in _names(folder) if name.startswith("probe-random"))
    shutil.rmtree(lost)
    assert _run(folder) == made
    assert len(reads) == 1, "a probe that alone is pending runs alone"


def _names(folder: Path) -> list[str]:
    """Folders of the probes of five documents."""
    with Store.open(folder / "results.db") as store:
        return [path.name for path in _runner(folder, store).folders.values()]


def test_force_makes_each_pass_once_too(folder: Path, reads: list[tuple[bool, int]]) -> None:
    made = _run(folder)
    reads.clear()
    assert _run(folder, force=True) == made
    assert sorted(adapter_on for adapter_on, _ in reads) == [False, True]


def test_what_was_captured_for_another_step_outlives_a_kill(
    folder: Path, reads: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.study.steps.probe.select_features", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(folder)
    assert [on for on, _ in reads] == [True]
    _run(folder)
    assert [on for on, _ in reads] == [True, False]


def test_what_one_set_cannot_hold_is_no_fault_of_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = random_probe.RandomDirections.vector
    monkeypatch.setattr(random_probe.RandomDirections, "vector", lambda *a: original(*a) * 1e9)
    with Store.open(folder / "results.db") as store:
        with pytest.raises(HarnessError, match=r"random.*does not fit float16"):
            _runner(folder, store).run()
        assert _runner(folder, store).pending() == ["probe/random-directions"]
