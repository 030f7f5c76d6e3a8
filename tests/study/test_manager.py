"""The manager: what plugins may offer, and what happens to those that offer something else."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from harness import Config, Registration, hookimpl
from harness.contract.hooks import StepFinished
from harness.contract.stages import stage_of_word
from harness.errors import RegistryError, UnknownName, UsageError
from harness.study.manager import Manager, Observer
from harness.study.registry import Registry, read_registry


class NoConfig(Config):
    """Nothing to set."""

    level: int = 1
    """A number."""


def registration(name: str) -> Registration[Any]:
    return Registration(name=name, config=NoConfig, load=lambda: lambda config: config, summary="a test")


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> str:
    made = types.ModuleType(name)
    for key, value in members.items():
        setattr(made, key, value)
    monkeypatch.setitem(__import__("sys").modules, name, made)
    return name


def registry(*rows: dict[str, Any], observers: Sequence[dict[str, str]] = ()) -> Registry:
    study = {"summary": "s", "model": {"path": "m"}, "data": {"path": "d"}, "adapter": "x"}
    return Registry.model_validate(
        {"version": 1, "default_study": "s", "plugins": list(rows), "observers": observers, "studies": {"s": study}}
    )


def offering(*names: str) -> Callable[[], list[Registration[Any]]]:
    @hookimpl
    def harness_probes() -> list[Registration[Any]]:
        return [registration(n) for n in names]

    return harness_probes


def test_a_plugin_is_offered_and_constructed_with_its_rows_config(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(monkeypatch, "demo_one", harness_probes=offering("mine"))
    manager = Manager(registry({"name": "mine", "stage": "probe", "module": name, "config": {"level": 3}}))
    config = manager.config("mine")
    assert config == NoConfig(level=3)
    assert manager.config("mine", {"level": 5}) == NoConfig(level=5), "--set wins over the registry"
    assert manager.implementation("mine", config) is config


def test_an_unknown_plugin_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(monkeypatch, "demo_two", harness_probes=offering("neurons"))
    manager = Manager(registry({"name": "neurons", "stage": "probe", "module": name}))
    with pytest.raises(UnknownName, match="no plugin 'neuron'; nearest: 'neurons'"):
        manager.offer("neuron")
    with pytest.raises(UnknownName, match="no key of neurons 'levl'; nearest: 'level'"):
        manager.config("neurons", {"levl": 1})


def test_two_plugins_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = module(monkeypatch, "demo_a", harness_probes=offering("a", "same"))
    two = module(monkeypatch, "demo_b", harness_probes=offering("b", "same"))
    rows = [{"name": n, "stage": "probes", "module": m} for n, m in (("a", one), ("b", two))]
    manager = Manager(registry(*rows))
    manager.offer("a")
    with pytest.raises(UsageError, match="two plugins are called 'same'"):
        manager.offer("b")


def test_a_missing_module_and_a_module_without_the_plugin_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(monkeypatch, "demo_c", harness_probes=offering("other"))
    manager = Manager(
        registry(
            {"name": "gone", "stage": "probes", "module": "no_such_module_here"},
            {"name": "mine", "stage": "probes", "module": name},
        )
    )
    with pytest.raises(
        UsageError, match=r"'gone' \(registry: no_such_module_here\) .*: no module 'no_such_module_here'"
    ):
        manager.offer("gone")
    with pytest.raises(RegistryError, match="demo_c offers no plugin of that name"):
        manager.offer("mine")


def test_a_misspelt_hook_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def harness_probs() -> list[Any]:
        return []

    name = module(monkeypatch, "demo_d", harness_probs=harness_probs)
    manager = Manager(registry({"name": "mine", "stage": "probes", "module": name}))
    with pytest.raises(UsageError, match="harness_probs"):
        manager.offer("mine")


def test_what_is_not_a_registration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def harness_probes() -> list[Any]:
        return ["mine"]

    name = module(monkeypatch, "demo_e", harness_probes=harness_probes)
    manager = Manager(registry({"name": "mine", "stage": "probes", "module": name}))
    with pytest.raises(UsageError, match="returned str, not a Registration"):
        manager.offer("mine")


def test_an_observer_that_raises_is_counted_and_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def harness_step_finished(event: StepFinished) -> None:
        raise RuntimeError("mine to fail")

    name = module(monkeypatch, "demo_f", harness_probes=offering("mine"), harness_step_finished=harness_step_finished)
    manager = Manager(registry({"name": "mine", "stage": "probes", "module": name}))
    manager.offer("mine")
    manager.notify(manager.pm.hook.harness_step_finished, StepFinished("probe/mine", "k", "done", 1.0))
    assert manager.observer_failures == 1


@hookimpl
def harness_step_finished(event: StepFinished) -> None:
    """Observe nothing."""


def test_a_module_that_only_observes_is_loaded_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = module(monkeypatch, "demo_watching", harness_step_finished=harness_step_finished)
    manager = Manager(registry(observers=[{"name": "watching", "module": watching}]))
    assert manager.observers() == [Observer("watching", ("harness_step_finished",), "registry: demo_watching")]
    assert manager.names() == []
    assert manager.broken == {}


BROKEN = {
    "gone": ({}, "no module 'no_such_module_here'"),
    "misspelt": ({"harness_step_finish": harness_step_finished}, "unknown hook"),
    "empty": ({}, "implements no hook"),
    "arguments": ({"harness_run_step": hookimpl(lambda stepp: None)}, "stepp"),
    "raising": ({"harness_probes": hookimpl(lambda: 1 / 0)}, "ZeroDivisionError"),
    "wrong": ({"harness_probes": hookimpl(lambda: ["mine"])}, "returned str, not a Registration"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_module_is_named_and_takes_nothing_else_down(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    members, why = BROKEN[name]
    there = "no_such_module_here" if name == "gone" else module(monkeypatch, f"demo_{name}", **members)
    fine = module(
        monkeypatch, "demo_fine", harness_probes=offering("fine"), harness_step_finished=harness_step_finished
    )
    rows = [{"name": n, "stage": "probe", "module": m} for n, m in (("bad", there), ("fine", fine))]
    manager = Manager(registry(*rows, observers=[{"name": "bad-observer", "module": there}]))
    assert [offer.registration.name for offer in manager.load_all()] == ["fine"]
    assert [observer.name for observer in manager.observers()] == ["fine"]
    assert manager.broken.keys() == {"bad", "bad-observer"}
    assert all(why in sentence for sentence in manager.broken.values()), manager.broken
    with pytest.raises(UsageError, match="bad"):
        manager.offer("bad")


def test_a_module_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in (("demo_syntax", "def"), ("demo_exit", "raise SystemExit(3)"), ("demo_value", "int('x')")):
        (tmp_path / f"{name}.py").write_text(text)
        manager = Manager(registry(observers=[{"name": "mine", "module": name}]))
        assert f"'mine' (registry: {name}) cannot be loaded" in manager.broken["mine"]


def test_an_entry_point_may_only_observe(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "watching": module(monkeypatch, "demo_installed", harness_step_finished=harness_step_finished),
        "probing": module(monkeypatch, "demo_probing", harness_probes=offering("one", "two")),
        "lost": "no_such_module_here",
    }
    entries = [EntryPoint(name, value, "harness") for name, value in modules.items()]
    monkeypatch.setattr("harness.study.manager.entry_points", lambda group: entries)
    manager = Manager(registry())
    assert [observer.name for observer in manager.observers()] == ["watching"]
    assert manager.names() == ["one", "two"]
    assert manager.stage_of("two") == "probe"
    assert "no module 'no_such_module_here'" in manager.broken["lost"]


def test_a_plural_is_understood_as_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(monkeypatch, "demo_plural", harness_probes=offering("mine"))
    manager = Manager(registry({"name": "mine", "stage": "probes", "module": name}))
    assert manager.offer("mine").stage == "probe"
    assert [stage_of_word(word) for word in ("ablations", "ablate", "evaluate", "other")] == [
        "ablate", "ablate", "evaluate", "other",
    ]  # fmt: skip


def test_a_registration_may_name_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Implementation:
        def __init__(self, config: NoConfig) -> None:
            self.config = config

    name = module(monkeypatch, "demo_named", Implementation=Implementation)
    named = replace(registration("mine"), load=f"{name}:Implementation")
    assert named.implementation()(NoConfig()).config == NoConfig()
    for wrong in (f"{name}:Gone", name, f"{name}:"):
        with pytest.raises(UsageError, match="module:Class"):
            replace(named, load=wrong).implementation()


def test_the_packages_own_registry_names_plugins_that_are_there() -> None:
    from harness.study.registry_file import find_registry

    manager = Manager(read_registry(find_registry(None)))
    offers = {o.registration.name: o for o in manager.load_all()}
    assert {"rank1-lora", "batch-topk", "lexical", "leave-one-out", "openai"} <= set(offers)
    for offer in offers.values():
        assert offer.registration.summary
        for field, info in offer.registration.config.model_fields.items():
            assert info.description, f"{offer.registration.name}.{field} has no docstring"
