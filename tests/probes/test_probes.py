"""The probes: what each reads, under which names, and that the adapter is as it should be while they read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.activations.store import StoredActivations, open_set
from harness.errors import DataError, ModelError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.model.taps import Site, tap
from harness.records import ModelRef
from harness.stages import RunContext
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.probes import adapter_activations, mlp_neurons, random_directions

MODULES = (adapter_activations, mlp_neurons, random_directions)


def read(module: Any, subject: Subject, folder: Path, *, seed: int = 0, **config: Any) -> StoredActivations:
    (registration,) = module.harness_probes()
    probe = registration.load()(registration.config(**{"dtype": "float32", **config}))
    return open_set(probe.read(subject, tiny_traces(3), RunContext(out_dir=folder, seed=seed)))


def directly(subject: Subject, sites: list[Site], *, adapter_on: bool) -> np.ndarray:
    """The first document through the whole model, alone."""
    document = subject.chat.document(subject.tokenizer, tiny_traces(1)[0])
    with tap(subject.model, sites) as reading, torch.no_grad():
        if adapter_on:
            subject.model(torch.tensor([document.ids]), use_cache=False)
        else:
            with subject.model.disable_adapter():
                subject.model(torch.tensor([document.ids]), use_cache=False)
    return reading.values()[0].numpy()


def test_adapter_activations_are_a_times_x(tiny_subject: Subject, tmp_path: Path) -> None:
    stored = read(adapter_activations, tiny_subject, tmp_path)
    found = tiny_subject.components
    assert stored.columns == tuple(c.name for c in found)
    assert (stored.set.signed, stored.set.source) == (True, "adapter-activations")
    for i, component in enumerate(found):
        lora_a = f"{component.module}.lora_A.default"
        a = tiny_subject.model.get_submodule(lora_a).weight[0].detach()
        x = directly(tiny_subject, [Site(lora_a, "input", len(a))], adapter_on=True)
        np.testing.assert_allclose(stored.document("t0").values[:, i], x @ a.numpy(), rtol=1e-3, atol=1e-4)


def test_an_adapter_on_some_layers_is_read_under_their_numbers(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", layers=3)
    subject = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "a", layers_to_transform=[2]))
    stored = read(adapter_activations, subject, tmp_path / "out")
    assert set(stored.set.layers) == {2}
    assert stored.set.projections[0] == "q_proj"


@pytest.mark.parametrize(("architecture", "last"), [("qwen2", "layers.1.mlp.down_proj"), ("gpt2", "h.1.mlp.c_proj")])
def test_neurons_are_the_last_matrixs_input_on_the_base(tmp_path: Path, architecture: Any, last: str) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    subject = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "adapter"))
    stored = read(mlp_neurons, subject, tmp_path / "out", n_per_layer=5)
    assert stored.columns == tuple(f"L{layer}.neuron{i}" for layer in (0, 1) for i in range(5))
    assert stored.set.layers == (0,) * 5 + (1,) * 5
    (path,) = (p for p, _ in subject.model.named_modules() if p.endswith(last))
    site = [Site(path, "input", 5, take=slice(0, 5))]
    expected = directly(subject, site, adapter_on=False)
    np.testing.assert_allclose(stored.document("t0").values[:, 5:], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(directly(subject, site, adapter_on=True) - expected).max() > 0.01


def test_neurons_can_be_read_without_an_adapter_and_are_at_most_all(tiny_base: ModelRef, tmp_path: Path) -> None:
    subject = load_subject(tiny_base, ChatFormat())
    assert len(read(mlp_neurons, subject, tmp_path).columns) == 2 * 48


def test_neurons_of_an_unknown_architecture_name_the_setting(tiny_subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"mlp-neurons\.modules"):
        read(mlp_neurons, tiny_subject, tmp_path, modules=("mlp.w2",))


def test_random_directions_have_the_components_norms_and_come_from_the_seed(
    tiny_subject: Subject, tmp_path: Path
) -> None:
    stored = read(random_directions, tiny_subject, tmp_path / "a", seed=1)
    again = read(random_directions, tiny_subject, tmp_path / "b", seed=1)
    other = read(random_directions, tiny_subject, tmp_path / "c", seed=2)
    np.testing.assert_array_equal(stored.document("t0").values, again.document("t0").values)
    assert not np.array_equal(stored.document("t0").values, other.document("t0").values)
    for i, component in enumerate(tiny_subject.components):
        lora_a = f"{component.module}.lora_A.default"
        d_in = tiny_subject.model.get_submodule(lora_a).weight.shape[1]
        x = directly(tiny_subject, [Site(lora_a, "input", d_in)], adapter_on=True)
        vector = np.linalg.lstsq(x, stored.document("t0").values[:, i], rcond=None)[0]
        assert np.linalg.norm(vector) == pytest.approx(component.a_norm, rel=0.02)


@pytest.mark.parametrize("module", [adapter_activations, random_directions])
def test_a_probe_of_the_adapter_needs_one(tiny_base: ModelRef, tmp_path: Path, module: Any) -> None:
    with pytest.raises(ModelError, match="the subject has none"):
        read(module, load_subject(tiny_base, ChatFormat()), tmp_path)


@pytest.mark.parametrize("module", MODULES)
def test_no_traces_are_refused(tiny_subject: Subject, tmp_path: Path, module: Any) -> None:
    (registration,) = module.harness_probes()
    probe = registration.load()(registration.config())
    with pytest.raises(DataError, match="no trace"):
        probe.read(tiny_subject, [], RunContext(out_dir=tmp_path, seed=0))


@pytest.mark.parametrize("module", MODULES)
def test_a_second_reading_gives_the_same_bytes_and_leaves_no_tap(
    tiny_subject: Subject, tmp_path: Path, module: Any
) -> None:
    read(module, tiny_subject, tmp_path / "a")
    read(module, tiny_subject, tmp_path / "b")
    for file in (tmp_path / "a" / "activations").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "activations" / file.name).read_bytes()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in tiny_subject.model.modules())


def test_offering_imports_no_torch() -> None:
    names = [m.__name__ for m in MODULES] + ["harness_plugins.dictionaries.batch_topk"]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
