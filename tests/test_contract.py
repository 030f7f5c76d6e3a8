"""The contract, tried on every plugin that ships, with the check that plugin authors have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import Config, Provider, Registration
from harness.contract.context import RunContext
from harness.errors import UsageError
from harness.records import ModelRef
from harness.study.manager import Manager
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.testing import check_plugin, tiny_adapter
from harness_plugins.ablations.leave_one_out.ablation import LeaveOneOut

MANAGER = Manager(read_registry(find_registry(None)))
RECIPE = {"epochs": 1, "batch_size": 4, "micro_batch_size": 4}
DICTIONARY = {"k": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "rank1-lora": RECIPE,
    "full-finetune": RECIPE,
    "batch-topk": {"k": 2, "steps": 20, "batch_size": 128},
    "abs-topk": {"k": 2, "steps": 20, "batch_size": 128},
    "pca": DICTIONARY,
    "ica": DICTIONARY,
    "k-means": DICTIONARY,
    "random-dictionary": DICTIONARY,
    "identity": DICTIONARY,
    "groups": {"benchmark_groups": "none"},
    "group-search": {"methods": ["greedy"]},
    "attribute": {"n_documents": 3, "exact_top": 2, "exact_random": 1},
    "leave-one-out": {"scopes": ["adapter", "layer"]},
}
"""What makes a plugin's run a tiny one."""
VENDORS = {"openai", "openai-compatible", "anthropic"}
"""Tried against a server in tests/providers."""
FOLDERS = {"pretrained-adapter", "existing-dictionary", "local"}
"""Need a folder to begin with: tried below."""
PLAIN = [name for name in MANAGER.names() if name not in VENDORS | FOLDERS | {"autointerp"}]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plugin_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_plugin(MANAGER.offer(name).registration, tmp_path, CONFIGS.get(name))


def test_autointerp_keeps_the_contract(tmp_path: Path, scripted_provider: Callable[..., Provider]) -> None:
    categories = [
        {"string_id": f"kind_{i}", "name": f"Kind {i}", "definition": "One kind.", "examples": []} for i in range(5)
    ]
    judgement = {"explanation": "one word", "classification": 0, "classification_reasoning": "all of them"}
    rules = {
        "<neuron_activations>": json.dumps(judgement),
        "feature interpretations to categorize": json.dumps({"categories": categories, "summary": ""}),
        "which category best fits": "kind_1",
    }
    registration = MANAGER.offer("autointerp").registration
    records = check_plugin(registration, tmp_path, provider=scripted_provider(rules=rules))
    assert {r.category for r in records if type(r).__name__ == "CategoryAssignment"} == {"kind_1"}  # type: ignore[attr-defined]


def test_pretrained_adapter_keeps_the_contract(tiny_base: ModelRef, tmp_path: Path) -> None:
    tiny_adapter(tiny_base, tmp_path / "given")  # check_plugin's own base has the same shape
    check_plugin(MANAGER.offer("pretrained-adapter").registration, tmp_path, {"path": str(tmp_path / "given")})


def test_existing_dictionary_keeps_the_contract(tmp_path: Path) -> None:
    (fitted,) = check_plugin(MANAGER.offer("pca").registration, tmp_path / "pca", DICTIONARY)
    settings = {"path": str(fitted.path)}  # type: ignore[attr-defined]
    check_plugin(MANAGER.offer("existing-dictionary").registration, tmp_path, settings)


def test_local_keeps_the_contract(tiny_base: ModelRef, tmp_path: Path) -> None:
    check_plugin(MANAGER.offer("local").registration, tmp_path, {"model": tiny_base.path, "device": "cpu"})


class Broken(LeaveOneOut):
    """An ablation that breaks the contract in the way it is told."""

    fault = ""

    def measure(self, subject: Any, traces: Sequence[Any], run: RunContext) -> Any:
        if self.fault == "a tap is left":
            subject.model.register_forward_hook(lambda *_: None)
        if self.fault == "a weight is changed":
            next(subject.model.parameters()).data.add_(1)
        if self.fault == "items are made again":
            run = replace(run, done=frozenset())
        for score in super().measure(subject, traces, run):
            drift = float(run.out_dir.name == "again") if self.fault == "the seed does not decide" else 0.0
            yield score.model_copy(update={"ce_nats": drift})


class OtherArguments(LeaveOneOut):
    """An ablation whose method takes other arguments than the host passes."""

    def measure(self, model: Any, documents: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("a tap is left", "taps are left"),
        ("a weight is changed", "weights were changed"),
        ("items are made again", "run.done were made again"),
        ("the seed does not decide", "same seed, other records"),
    ],
)
def test_the_check_names_the_fault(fault: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "fault", fault)
    registration = replace(MANAGER.offer("leave-one-out").registration, load=lambda: Broken)
    with pytest.raises(AssertionError, match=said):
        check_plugin(registration, tmp_path, {"scopes": ["adapter", "layer"]})


def test_the_check_names_a_method_with_other_arguments(tmp_path: Path) -> None:
    registration = replace(MANAGER.offer("leave-one-out").registration, load=lambda: OtherArguments)
    with pytest.raises(AssertionError, match=r"measure takes \['model', 'documents'\], and is given \['subject'"):
        check_plugin(registration, tmp_path)


class Undescribed(Config):
    """A config whose field says nothing."""

    width: int = 3


def test_the_check_asks_for_a_docstring_under_every_setting(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="width has no docstring"):
        check_plugin(Registration("x", Undescribed, lambda: Broken, "s"), tmp_path)


def test_a_registration_that_names_nothing_says_so() -> None:
    registration: Registration[Any] = Registration("x", Config, "harness_plugins.nowhere:Thing", "s")
    with pytest.raises(UsageError, match=r"plugin 'x': cannot load 'harness_plugins.nowhere:Thing'"):
        registration.implementation()


def test_a_run_context_of_the_fixture_reaches_its_provider(
    run_context: Callable[..., RunContext], scripted_provider: Callable[..., Provider]
) -> None:
    run = run_context(provider=scripted_provider(replies=("yes",)), seed=3)
    assert run.provider is not None
    provider, model = run.provider("explainer")
    assert (provider.name, model, run.seed) == ("scripted", "scripted", 3)
    assert run_context().out_dir != run.out_dir
