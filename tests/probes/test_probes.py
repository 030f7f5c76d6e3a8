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
from harness.activations.units import in_raw_units
from harness.contract.context import RunContext
from harness.errors import DataError, ModelError
from harness.model.chat import ChatFormat
from harness.model.components import directions
from harness.model.splice import splice_kl
from harness.model.subject import Subject, load_subject
from harness.model.taps import Site, tap
from harness.records import ModelRef
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.probes import adapter_activations, mlp_neurons, random_directions, shuffled_directions

MODULES = (adapter_activations, mlp_neurons, random_directions, shuffled_directions)


def read(module: Any, subject: Subject, folder: Path, *, seed: int = 0, **config: Any) -> StoredActivations:
    (registration,) = module.harness_probes()
    probe = registration.implementation()(registration.config(**{"dtype": "float32", **config}))
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


def test_neurons_can_be_read_where_the_papers_code_read_them(tiny_subject: Subject, tmp_path: Path) -> None:
    """The first outputs of up_proj, with the adapter on and so in them."""
    stored = read(mlp_neurons, tiny_subject, tmp_path, site="up", adapter=True, n_per_layer=6)
    assert stored.columns[:2] == ("L0.up0", "L0.up1")
    path = next(p for p, _ in tiny_subject.model.named_modules() if p.endswith("layers.1.mlp.up_proj"))
    expected = directly(tiny_subject, [Site(path, "output", 6, take=slice(0, 6))], adapter_on=True)
    np.testing.assert_allclose(stored.document("t0").values[:, 6:], expected, rtol=1e-3, atol=1e-4)
    assert "adapter on" in stored.set.site


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "gemma"])
def test_the_residual_stream_is_what_transformers_calls_hidden_states(tmp_path: Path, architecture: Any) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    subject = load_subject(base, ChatFormat())
    stored = read(mlp_neurons, subject, tmp_path / "out", site="residual", n_per_layer=7)
    assert (len(stored.columns), stored.columns[-1]) == (14, "L1.residual6")
    document = subject.chat.document(subject.tokenizer, tiny_traces(1)[0])
    with torch.no_grad():
        hidden = subject.model(torch.tensor([document.ids]), output_hidden_states=True).hidden_states
    for layer in (0, 1):
        found = stored.document("t0").values[:, 7 * layer : 7 * layer + 7]
        np.testing.assert_allclose(found, hidden[layer][0, :, :7], rtol=1e-3, atol=1e-4)


def test_neurons_of_the_adapted_model_need_an_adapter(tiny_base: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the subject has none"):
        read(mlp_neurons, load_subject(tiny_base, ChatFormat()), tmp_path, adapter=True)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_scalar_in_the_unit_write_is_the_norm_of_what_it_adds(tiny_base: ModelRef, tmp_path: Path, rank: int) -> None:
    subject = load_subject(tiny_base, ChatFormat(), tiny_adapter(tiny_base, tmp_path / "a", rank=rank))
    raw = read(adapter_activations, subject, tmp_path / "raw")
    write = read(adapter_activations, subject, tmp_path / "write", unit="write")
    assert (raw.set.unit, write.set.unit) == ("raw", "write")
    for i, component in enumerate(subject.components):
        b = directions(subject.model, component).b
        added = np.abs(raw.document("t0").values[:, i, None] * component.scaling * b.numpy())
        found = np.abs(write.document("t0").values[:, i])
        np.testing.assert_allclose(found, np.linalg.norm(added, axis=1), rtol=1e-4)


def test_zscores_have_mean_zero_and_deviation_one_over_ranked_tokens(tiny_subject: Subject, tmp_path: Path) -> None:
    raw, z = (read(adapter_activations, tiny_subject, tmp_path / u, unit=u) for u in ("raw", "zscore"))
    values = np.concatenate([d.values[d.ranked] for d in z.documents()])
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, rtol=1e-5)
    header = z.manifest.header
    back = z.document("t1").values / np.array(header.scale) + np.array(header.shift)
    np.testing.assert_allclose(back, raw.document("t1").values, rtol=1e-3, atol=1e-4)
    assert z.document_ids == raw.document_ids


class Identity:
    """A codec that changes nothing, of stored values."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z


@pytest.mark.parametrize("unit", ["raw", "write", "zscore"])
def test_a_perfect_dictionary_of_any_unit_splices_without_loss(
    tiny_subject: Subject, tmp_path: Path, unit: str
) -> None:
    stored = read(adapter_activations, tiny_subject, tmp_path, unit=unit)
    documents = [d.document() for d in stored.documents()]
    codec = in_raw_units(Identity(), stored)  # type: ignore[arg-type]
    sums = splice_kl(tiny_subject, documents, codec, RunContext(out_dir=tmp_path, seed=0))
    assert sums.kl_base_nats > 0.01
    # Scaling there and back rounds in float32.
    assert sums.kl_splice_nats < 1e-8


@pytest.mark.parametrize("unit", ["write", "zscore"])
def test_a_dictionary_is_given_the_units_that_it_was_fitted_on(
    tiny_subject: Subject, tmp_path: Path, unit: str
) -> None:
    raw = read(adapter_activations, tiny_subject, tmp_path / "raw", unit="raw").document("t0").values
    stored = read(adapter_activations, tiny_subject, tmp_path / "own", unit=unit)
    given = in_raw_units(Identity(), stored).encode(torch.tensor(raw))  # type: ignore[arg-type]
    ranked = stored.document("t0").ranked
    np.testing.assert_allclose(given.numpy()[ranked], stored.document("t0").values[ranked], rtol=2e-3, atol=2e-3)


def test_shuffled_directions_have_the_components_entries_in_another_order(
    tiny_subject: Subject, tmp_path: Path
) -> None:
    stored = read(shuffled_directions, tiny_subject, tmp_path, seed=1)
    assert stored.columns[0] == "L0.q_proj.shuffled"
    for i, component in enumerate(tiny_subject.components):
        a = directions(tiny_subject.model, component).a.numpy()
        x = directly(tiny_subject, [Site(f"{component.module}.lora_A.default", "input", len(a))], adapter_on=True)
        vector = np.linalg.lstsq(x, stored.document("t0").values[:, i], rcond=None)[0]
        assert not np.allclose(vector, a, atol=0.05)
        np.testing.assert_allclose(np.sort(vector), np.sort(a), atol=0.02)


def test_the_numeric_mode_is_recorded(tiny_subject: Subject, tmp_path: Path) -> None:
    plain = read(adapter_activations, tiny_subject, tmp_path / "a")
    rapid = read(adapter_activations, tiny_subject, tmp_path / "b", numerics="in-place")
    assert (plain.set.numerics, rapid.set.numerics) == ("modules", "in-place")
    np.testing.assert_allclose(plain.document("t0").values, rapid.document("t0").values, rtol=1e-3, atol=1e-4)
    base = read(mlp_neurons, tiny_subject, tmp_path / "c", numerics="in-place")
    assert base.set.numerics == "modules"  # the adapter is off: there is nothing to run in place


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
        a = directions(tiny_subject.model, component).a.numpy()
        assert abs(vector @ a) < 0.8 * component.a_norm**2


@pytest.mark.parametrize("module", [adapter_activations, random_directions, shuffled_directions])
def test_a_probe_of_the_adapter_needs_one(tiny_base: ModelRef, tmp_path: Path, module: Any) -> None:
    with pytest.raises(ModelError, match="the subject has none"):
        read(module, load_subject(tiny_base, ChatFormat()), tmp_path)


@pytest.mark.parametrize("module", MODULES)
def test_no_traces_are_refused(tiny_subject: Subject, tmp_path: Path, module: Any) -> None:
    (registration,) = module.harness_probes()
    probe = registration.implementation()(registration.config())
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
