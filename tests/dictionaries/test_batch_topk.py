"""batch-topk: finds a planted dictionary, gives each token a code of its own, and survives an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment

from harness.activations.exemplars import collect_features
from harness.activations.latents import encode_set
from harness.activations.store import Moments, StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.scoring import score_dictionary
from harness.errors import DataError, UsageError
from harness.model.subject import Subject
from harness.records import Dictionary
from harness.testing import tiny_activations, tiny_traces
from harness_plugins.dictionaries.batch_topk import BatchTopKConfig, harness_dictionaries
from harness_plugins.dictionaries.batch_topk.autoencoder import Autoencoder, Objective
from harness_plugins.dictionaries.batch_topk.learner import BatchTopKLearner, schedule
from harness_plugins.dictionaries.batch_topk.units import InputScaling, fitted, fitted_weights
from harness_plugins.dictionaries.checks import refuse_unusable
from harness_plugins.dictionaries.files import load_dictionary, save_dictionary
from harness_plugins.dictionaries.sae import JumpRelu
from harness_plugins.probes import adapter_activations


def planted(
    n_tokens: int = 20_000, d_in: int = 16, n_latents: int = 32, active: int = 2, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tokens that are sums of `active` of `n_latents` unit directions, in columns of very different scale."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n_latents, d_in))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((n_tokens, n_latents))
    for row in codes:
        row[rng.choice(n_latents, active, replace=False)] = 0.5 + rng.exponential(1.0, active)
    x = codes @ directions
    return {f"d{i}": part for i, part in enumerate(np.array_split(x, 50))}, directions


def fit(
    stored: StoredActivations, folder: Path, *, seed: int = 0, progress: Any = None, **config: Any
) -> tuple[BatchTopKLearner, Dictionary]:
    learner = BatchTopKLearner(BatchTopKConfig(**config))
    extra = {} if progress is None else {"progress": progress}
    return learner, learner.fit(stored.set, RunContext(out_dir=folder, seed=seed, **extra))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    documents, _ = planted(2000, d_in=6, n_latents=12)
    return open_set(tiny_activations(tmp_path_factory.mktemp("small"), documents, shard_tokens=700))


SMALL = {"k": 2, "expansion": 2, "batch_size": 128, "steps": 60, "checkpoint_steps": 25}


def test_a_planted_dictionary_is_found(tmp_path: Path) -> None:
    documents, directions = planted(20_000, d_in=32, n_latents=48)
    scales = np.geomspace(0.01, 100, 32)  # a component's scale is arbitrary and must not matter
    stored = open_set(tiny_activations(tmp_path / "a", {k: v * scales for k, v in documents.items()}))
    learner, dictionary = fit(stored, tmp_path / "d", k=2, expansion=3, steps=1200, lr=5e-3, batch_size=256)
    found = load_file(dictionary.path / "sae_weights.safetensors")["W_dec"].numpy() / scales
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    cosine = directions @ found.T
    rows, columns = linear_sum_assignment(-cosine)
    assert cosine[rows, columns].mean() > 0.95
    codec = learner.load(dictionary)
    score = score_dictionary(dictionary, codec, stored, None, RunContext(out_dir=tmp_path, seed=0))
    assert score.l0.value == pytest.approx(2, rel=0.1)
    assert score.fvu.value < 0.1


def test_codes_are_never_negative_and_a_tokens_code_is_its_own(small: StoredActivations, tmp_path: Path) -> None:
    learner, dictionary = fit(small, tmp_path, **SMALL)
    codec = learner.load(dictionary)
    x = torch.from_numpy(np.array(small.document("d0").values))
    together = codec.encode(x)
    assert bool((together >= 0).all())
    assert bool((together > 0).any())
    alone = torch.cat([codec.encode(row[None]) for row in x])
    among_giants = codec.encode(torch.cat([x, 1e3 * x]))[: len(x)]
    halves = codec.encode(torch.cat([x.half().float(), x]))[len(x) :]
    for other in (alone, among_giants, halves):
        assert torch.equal(other > 0, together > 0)
        # The same product in another blocking differs in the last place.
        torch.testing.assert_close(other, together, rtol=1e-5, atol=1e-6)


def test_decoder_rows_have_norm_one_in_training_units(small: StoredActivations, tmp_path: Path) -> None:
    _, dictionary = fit(small, tmp_path, **SMALL)
    tensors = load_file(dictionary.path / "sae_weights.safetensors")
    scale = torch.from_numpy(small.moments(small.split().train).std).float()
    torch.testing.assert_close((tensors["W_dec"] / scale).norm(dim=1), torch.ones(12), rtol=1e-5, atol=1e-5)


def test_encode_and_decode_take_raw_units(small: StoredActivations, tmp_path: Path) -> None:
    """The file's weights in the textbook formula (and SAELens'), against the trained model in its own units."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.1, 1.0, 10.0])
    sae = Autoencoder(torch.tensor([1.0, 2.0, 3.0]), 5, generator)
    shift = torch.tensor([0.0, 4.0, 0.0])
    model = fitted(sae, Objective(k=1), InputScaling(shift, scale, sae.b_dec))
    save_dictionary(tmp_path, fitted_weights(model, scale, 0.3), {})
    codec = load_dictionary(tmp_path)
    x = torch.randn(20, 3, generator=generator) * scale + 1
    pre = ((x - shift) / scale - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    expected = torch.where(pre > 0.3, pre, 0)
    torch.testing.assert_close(codec.encode(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.from_numpy(codec.encode_sparse(x).toarray()), codec.encode(x))
    rebuilt = (expected @ sae.W_dec + sae.b_dec) * scale + shift
    torch.testing.assert_close(codec.decode(expected), rebuilt, rtol=1e-4, atol=1e-5)


def test_training_does_not_look_at_held_out_documents(small: StoredActivations, tmp_path: Path) -> None:
    held_out = set(small.split().held_out)
    documents = {d.id: d.values * (100 if d.id in held_out else 1) for d in small.documents()}
    other = open_set(tiny_activations(tmp_path / "set", documents, shard_tokens=700))
    _, one = fit(small, tmp_path / "one", **SMALL)
    _, two = fit(other, tmp_path / "two", **SMALL)
    weights = "sae_weights.safetensors"
    assert (one.path / weights).read_bytes() == (two.path / weights).read_bytes()


class StopAfter:
    """Progress that interrupts."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def start(self, total: int | None, unit: str) -> None: ...

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_interrupted_training_ends_with_the_same_bytes(small: StoredActivations, tmp_path: Path) -> None:
    _, whole = fit(small, tmp_path / "whole", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path / "twice", progress=StopAfter(40), **SMALL)
    assert (tmp_path / "twice" / "training.safetensors").is_file()
    _, twice = fit(small, tmp_path / "twice", **SMALL)
    assert not (tmp_path / "twice" / "training.safetensors").exists()
    for file in whole.path.iterdir():
        assert file.read_bytes() == (twice.path / file.name).read_bytes(), file.name
    assert whole.losses == twice.losses


def test_a_damaged_checkpoint_is_trained_again(small: StoredActivations, tmp_path: Path) -> None:
    (tmp_path / "training.safetensors").write_bytes(b"half a checkpoint")
    _, dictionary = fit(small, tmp_path, **SMALL)
    assert dictionary.losses[-1][0] == 59


def test_a_finished_training_is_not_repeated_but_another_configs_is(small: StoredActivations, tmp_path: Path) -> None:
    _, first = fit(small, tmp_path, **SMALL)
    written = (first.path / "cfg.json").stat().st_mtime_ns
    assert fit(small, tmp_path, **SMALL)[1] == first
    assert (first.path / "cfg.json").stat().st_mtime_ns == written
    assert fit(small, tmp_path, **{**SMALL, "lr": 1e-3})[1] != first


def test_the_seed_decides(small: StoredActivations, tmp_path: Path) -> None:
    weights = [
        (fit(small, tmp_path / str(i), seed=s, **SMALL)[1].path / "sae_weights.safetensors").read_bytes()
        for i, s in enumerate((1, 1, 2))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_losses_fall_and_are_logged(small: StoredActivations, tmp_path: Path) -> None:
    _, dictionary = fit(small, tmp_path, **SMALL)
    steps, losses = zip(*dictionary.losses, strict=True)
    assert steps == tuple(range(60))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_dead_latents_of_a_full_pass_are_those_without_exemplars(small: StoredActivations, tmp_path: Path) -> None:
    learner, dictionary = fit(small, tmp_path / "d", **{**SMALL, "expansion": 20, "k": 1})
    codec = learner.load(dictionary)
    latents = open_set(encode_set(codec, small, tmp_path / "z", dictionary))
    score = score_dictionary(dictionary, codec, small, None, RunContext(out_dir=tmp_path, seed=0))
    alive = sum(bool(f.exemplars) for f in collect_features(latents, k=1))
    assert score.n_alive == alive
    assert 0 < alive < dictionary.n_latents


def test_k_above_the_number_of_latents_is_a_usage_error(small: StoredActivations, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batch-topk\.k=16: there are only 12 latents"):
        fit(small, tmp_path, **{**SMALL, "k": 16})


def test_constant_columns_are_named(tmp_path: Path) -> None:
    documents, _ = planted(500, d_in=4)
    for values in documents.values():
        values[:, 1] = 3
    stored = open_set(tiny_activations(tmp_path / "a", documents))
    with pytest.raises(DataError, match=r"L1\.q_proj is constant"):
        fit(stored, tmp_path / "d", **SMALL)


def test_columns_that_are_not_finite_are_named(small: StoredActivations) -> None:
    """A capture refuses them; sums over many of a float16's extremes can still overflow."""
    std = np.ones(len(small.columns))
    std[[0, 2]] = np.nan, np.inf
    moments = Moments(np.zeros_like(std), std, 500)
    names = f"{small.columns[0]}, {small.columns[2]}"
    with pytest.raises(DataError, match=f"{names} are not finite"):
        refuse_unusable(small, moments, learner="batch-topk", n_latents=12, k=2)


def test_fewer_tokens_than_latents_are_refused(tmp_path: Path) -> None:
    documents, _ = planted(60, d_in=8)
    stored = open_set(tiny_activations(tmp_path / "a", documents))
    with pytest.raises(DataError, match="training tokens for 64 latents"):
        fit(stored, tmp_path / "d", **{**SMALL, "expansion": 8})


def test_a_damaged_dictionary_is_named(small: StoredActivations, tmp_path: Path) -> None:
    learner, dictionary = fit(small, tmp_path, **SMALL)
    (dictionary.path / "sae_weights.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"sae_weights\.safetensors"):
        learner.load(dictionary)


def test_the_files_are_saelens(small: StoredActivations, tmp_path: Path) -> None:
    _, dictionary = fit(small, tmp_path, **SMALL)
    config = json.loads((dictionary.path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"], config["dtype"]) == ("jumprelu", 6, 12, "float32")
    tensors = load_file(dictionary.path / "sae_weights.safetensors")
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    assert shapes == {"W_enc": (6, 12), "W_dec": (12, 6), "b_enc": (12,), "b_dec": (6,), "threshold": (12,)}


def test_the_learning_rate_warms_up_and_decays_over_the_second_half() -> None:
    rates = [schedule(s, 100, 1000) for s in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:51] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5)
    assert 0 < rates[-1] <= 0.02


def test_the_probe_the_dictionary_and_the_splice_fit_together(tiny_subject: Subject, tmp_path: Path) -> None:
    """Read, fit, encode, score: a dictionary that explains the scalars restores what the adapter does."""
    (probe,) = adapter_activations.harness_probes()
    (learner,) = harness_dictionaries()
    assert learner.needs == (probe.name,)
    run = RunContext(out_dir=tmp_path, seed=0)
    record = probe.implementation()(probe.config()).read(tiny_subject, tiny_traces(20), run)
    by_size = learner.implementation()(learner.config(k=2, expansion=1, steps=5, standardise="write-norm"))
    sized = by_size.fit(record, RunContext(out_dir=tmp_path / "sized", seed=0))
    scale = json.loads((sized.path / "cfg.json").read_text())["metadata"]["input_scale"]
    norms = [abs(c.scaling) * c.b_norm for c in tiny_subject.components]
    assert np.multiply(scale, norms) == pytest.approx(1)
    fitted = learner.implementation()(learner.config(k=14, expansion=4, steps=600, batch_size=256))
    dictionary = fitted.fit(record, run)
    codec = fitted.load(dictionary)
    assert isinstance(codec, JumpRelu)
    score = score_dictionary(dictionary, codec, open_set(record), tiny_subject, run)
    assert score.kl_base_nats is not None
    assert score.kl_base_nats.value > 0.1
    assert score.kl_recovered is not None
    assert score.kl_recovered.value > 0.5
    assert score.fvu.value < 0.2
