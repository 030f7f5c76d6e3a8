"""The manager: what plugins may offer, and what happens to those that offer something else."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from harness import Config, Registration, hookimpl
from harness.contract.hooks import StepFinished
from harness.errors import RegistryError, UnknownName, UsageError
from harness.study.manager import Manager
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


def registry(*rows: dict[str, Any]) -> Registry:
    study = {"summary": "s", "model": {"path": "m"}, "data": {"path": "d"}, "adapter": "x"}
    return Registry.model_validate({"version": 1, "default_study": "s", "plugins": list(rows), "studies": {"s": study}})


def offering(*names: str) -> Callable[[], list[Registration[Any]]]:
    @hookimpl
    def harness_probes() -> list[Registration[Any]]:
        return [registration(n) for n in names]

    return harness_probes


def test_a_plugin_is_offered_and_constructed_with_its_rows_config(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(monkeypatch, "demo_one", harness_probes=offering("mine"))
    manager = Manager(registry({"name": "mine", "stage": "probes", "module": name, "config": {"level": 3}}))
    config = manager.config("mine")
    assert config == NoConfig(level=3)
    assert manager.config("mine", {"level": 5}) == NoConfig(level=5), "--set wins over the registry"
    assert manager.implementation("mine", config) is config


def test_an_unknown_plugin_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(monkeypatch, "demo_two", harness_probes=offering("neurons"))
    manager = Manager(registry({"name": "neurons", "stage": "probes", "module": name}))
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
    with pytest.raises(RegistryError, match="'gone': no module 'no_such_module_here'"):
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


def test_the_packages_own_registry_names_plugins_that_are_there() -> None:
    from harness.study.registry import find_registry

    manager = Manager(read_registry(find_registry(None)))
    offers = {o.registration.name: o for o in manager.load_all()}
    assert {"rank1-lora", "batch-topk", "lexical", "leave-one-out", "openai"} <= set(offers)
    for offer in offers.values():
        assert offer.registration.summary
        for field, info in offer.registration.config.model_fields.items():
            assert info.description, f"{offer.registration.name}.{field} has no docstring"
