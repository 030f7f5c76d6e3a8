"""Each hook, through a real plugin manager and a real run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness import AblationScore, Config, Estimate, Record, Registration, hookimpl
from harness.contract.hooks import StepFinished, StepProgressed, StepStarted
from harness.contract.stages import PLURALS, STAGES, Stage
from harness.store.read import records_of
from harness.store.writer import Store
from harness.study.manager import Manager
from harness.study.registry import Registry
from harness.study.runner import Runner
from harness.study.step import Plan, Step


class CellsConfig(Config):
    """Settings of the test's ablation."""

    n: int = 3
    """Cells to yield."""


class Cells:
    """An ablation without a model: yields numbered cells, and can be told to fail after some."""

    fail_after: int | None = None
    made: ClassVar[list[str]] = []

    def __init__(self, config: CellsConfig) -> None:
        self.config = config

    def measure(self, subject: object, traces: object, run: Any) -> Iterator[AblationScore]:
        for i in range(self.config.n):
            if f"c{i}" in run.done:
                continue
            if Cells.fail_after is not None and i >= Cells.fail_after:
                raise RuntimeError("the plugin broke")
            Cells.made.append(f"c{i}")
            yield AblationScore(
                item=f"c{i}", scope="component", kl_nats=Estimate(i, 0, i), n_tokens=1, n_documents=1,
                n_components=1,
            )  # fmt: skip


def cells_registration() -> Registration[Any]:
    return Registration(name="cells", config=CellsConfig, load=lambda: Cells, summary="numbered cells")


class Offering:
    """A plugin that offers the cells."""

    @hookimpl
    def harness_ablations(self) -> list[Registration[Any]]:
        return [cells_registration()]


class Bench:
    """A manager, a plan of one ablation step, and a store, without a model."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *plugins: object, n: int = 3) -> None:
        study = {"summary": "s", "model": {"path": "m"}, "data": {"path": "d"}, "adapter": "x"}
        registry = Registry.model_validate({"version": 1, "default_study": "s", "plugins": [], "studies": {"s": study}})
        self.manager = Manager(registry)
        for plugin in (Offering(), *plugins):
            self.manager._load("test", partial(lambda module: module, plugin), "test")
        step = Step("ablate/cells", "ablate", "ablate", "cells", CellsConfig(n=n), (), f"key{n}", 1)
        self.plan = Plan("s", None, registry.studies["s"], 0, (step,))
        self.store = Store.open(tmp_path / "results.db")
        self.artifacts = tmp_path / "artifacts"
        # the step needs no adapter: everything else in its path is the real thing
        monkeypatch.setattr("harness.study.state.RunState.adapter_subject", lambda *_: None)
        monkeypatch.setattr("harness.study.state.RunState.traces", lambda *_: [])
        monkeypatch.setattr(Cells, "fail_after", None)
        monkeypatch.setattr(Cells, "made", [])

    def run(self, **options: Any) -> Any:
        return Runner(self.plan, self.manager, self.store, self.artifacts, **options).run()

    def items(self) -> list[str]:
        import sqlite3

        with sqlite3.connect(str(self.store.path)) as connection:
            return [r[0] for r in connection.execute("SELECT item FROM ablation_score ORDER BY item")]


def registrar_works(stage: Stage) -> None:
    class Plugin:
        pass

    @hookimpl
    def offer(self: object) -> list[Registration[Any]]:
        return [cells_registration()]

    setattr(Plugin, f"harness_{PLURALS[stage]}", offer)
    registry = Registry.model_validate(
        {"version": 1, "default_study": "s", "plugins": [],
         "studies": {"s": {"summary": "s", "model": {"path": "m"}, "data": {"path": "d"}, "adapter": "x"}}}
    )  # fmt: skip
    manager = Manager(registry)
    manager._load("test", Plugin, "test")
    assert manager.offer("cells").stage == stage


def test_hook_harness_trainers() -> None:
    registrar_works("train")


def test_hook_harness_probes() -> None:
    registrar_works("probe")


def test_hook_harness_dictionaries() -> None:
    registrar_works("learn")


def test_hook_harness_interpreters() -> None:
    registrar_works("interpret")


def test_hook_harness_ablations() -> None:
    registrar_works("ablate")


def test_hook_harness_providers() -> None:
    registrar_works("provide")


def test_there_is_a_registrar_hook_for_every_stage() -> None:
    from harness.contract import hooks as hookspecs

    assert all(hasattr(hookspecs, f"harness_{plural}") for plural in PLURALS.values())
    assert set(STAGES) - set(PLURALS) == {"evaluate"}, "the harness evaluates itself"


def test_hook_harness_run_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Wrapper:
        @hookimpl(wrapper=True)
        def harness_run_step(self, step: str, stage: str, execute: Callable[[], Any]) -> Iterator[None]:
            seen.append((step, stage, "before"))
            result = yield
            seen.append((step, stage, result))
            return result

    bench = Bench(tmp_path, monkeypatch, Wrapper())
    bench.run()
    assert seen == [("ablate/cells", "ablate", "before"), ("ablate/cells", "ablate", 3)]
    assert bench.items() == ["c0", "c1", "c2"]


class Watcher:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @hookimpl
    def harness_step_started(self, event: StepStarted) -> None:
        self.events.append(event)

    @hookimpl
    def harness_step_progressed(self, event: StepProgressed) -> None:
        self.events.append(event)

    @hookimpl
    def harness_step_finished(self, event: StepFinished) -> None:
        self.events.append(event)


def test_hook_harness_step_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    Bench(tmp_path, monkeypatch, watcher).run()
    assert watcher.events[0] == StepStarted("ablate/cells", "key3", 0)


def test_hook_harness_step_progressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    Bench(tmp_path, monkeypatch, watcher).run()
    assert watcher.events[1:4] == [StepProgressed("ablate/cells", f"c{i}") for i in range(3)]


def test_hook_harness_step_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    Bench(tmp_path, monkeypatch, watcher).run()
    last = watcher.events[-1]
    assert (last.step, last.status, last.reason) == ("ablate/cells", "done", None)
    assert last.wall_s >= 0


def test_a_failed_step_keeps_its_items_and_goes_on_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    bench = Bench(tmp_path, monkeypatch, watcher, n=5)
    Cells.fail_after = 2
    with pytest.raises(RuntimeError, match="the plugin broke"):
        bench.run()
    assert bench.items() == ["c0", "c1"]
    assert watcher.events[-1].status == "failed"
    Cells.fail_after = None
    bench.run()
    assert Cells.made == ["c0", "c1", "c2", "c3", "c4"], "nothing was made twice"
    assert bench.items() == Cells.made


def test_a_done_step_is_reused_and_force_does_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    assert bench.run().n_reused == 0
    assert bench.run().n_reused == 1
    assert Cells.made == ["c0", "c1", "c2"]
    assert bench.run(force=True).n_reused == 0
    assert Cells.made == ["c0", "c1", "c2"] * 2
    assert bench.items() == ["c0", "c1", "c2"]


class Reading(Record):
    """What a plugin measured and nobody else does."""

    item: str
    """Name within the step."""
    sway_nats: Estimate
    """How far it sways."""
    words: tuple[str, ...] = ()
    """Which words."""


def test_hook_harness_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        @hookimpl
        def harness_records(self) -> list[type[Record]]:
            return [Reading]

    made = Reading(item="r", sway_nats=Estimate(0.5, 0.25, float("inf")), words=("so", "wait"))
    bench = Bench(tmp_path, monkeypatch, Plugin())
    monkeypatch.setattr(Cells, "measure", lambda self, subject, traces, run: iter([made]))
    run_id = bench.run().run_id
    with bench.store.engine.connect() as connection:
        assert records_of(connection, Reading, run_id=run_id) == [made]
        (row,) = connection.exec_driver_sql("SELECT * FROM v_reading").mappings()
    assert (row["run_id"], row["step"], row["item"]) == (run_id, "ablate/cells", "r")
    assert (row["sway_nats"], row["sway_ci_low"], row["words_json"]) == (0.5, 0.25, '["so","wait"]')
    assert bench.run(force=True).n_steps == 1, "the step's records are replaced, not doubled"
    with bench.store.engine.connect() as connection:
        assert len(records_of(connection, Reading)) == 1


def test_a_record_that_no_plugin_offers_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    record = Reading(item="r", sway_nats=Estimate(0, 0, 0))
    monkeypatch.setattr(Cells, "measure", lambda self, subject, traces, run: iter([record]))
    with pytest.raises(TypeError, match=r"Reading is not a record that the runner stores.*harness_records"):
        bench.run()
