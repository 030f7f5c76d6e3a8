"""Baselines: each is what its name says, sparse to the same L0, in the same units and on the same documents."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.scoring import score_dictionary
from harness.dictionaries.stability import decoder_rows, matched_cosines
from harness.errors import DataError, UsageError
from harness.records import Dictionary
from harness.testing import tiny_activations
from harness_plugins.dictionaries.baselines import harness_dictionaries

NAMES = ("pca", "ica", "k-means", "random-dictionary", "identity")
SIGNED = {"pca", "ica", "identity"}


def documents(n_tokens: int = 6000, d_in: int = 8, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tokens that are mixtures of independent, heavy-tailed sources, in columns of very different scale and mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d_in, d_in))
    x = rng.laplace(size=(n_tokens, d_in)) @ mixing * np.geomspace(0.1, 10, d_in) + np.arange(d_in)
    return {f"d{i}": part for i, part in enumerate(np.array_split(x, 40))}, mixing * np.geomspace(0.1, 10, d_in)


def fit(name: str, stored: StoredActivations, folder: Path, *, seed: int = 0, **config: Any) -> tuple[Any, Dictionary]:
    (offer,) = [r for r in harness_dictionaries() if r.name == name]
    learner = offer.implementation()(offer.config(**{"k": 2, **config}))
    return learner, learner.fit(stored.set, RunContext(out_dir=folder, seed=seed))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    # enough tokens that L0 on the held-out tenth is within 15 % of what it is in training
    return open_set(tiny_activations(tmp_path_factory.mktemp("set"), documents(8000)[0], shard_tokens=2000))


@pytest.mark.parametrize("name", NAMES)
def test_all_have_the_same_l0_and_a_tokens_code_is_its_own(
    name: str, stored: StoredActivations, tmp_path: Path
) -> None:
    learner, dictionary = fit(name, stored, tmp_path)
    codec = learner.load(dictionary)
    train = torch.from_numpy(np.concatenate([d.values[d.ranked] for d in stored.documents(stored.split().train)]))
    z = codec.encode(train)
    assert float((z != 0).sum()) == pytest.approx(2 * len(train), abs=3), "k per token over the training tokens"
    score = score_dictionary(dictionary, codec, stored, None, RunContext(out_dir=tmp_path, seed=0))
    assert score.l0.value == pytest.approx(2, rel=0.15)
    assert 0 < score.fvu.value < 1
    torch.testing.assert_close(codec.encode(train[:5]), z[:5], rtol=1e-4, atol=1e-5)
    assert dictionary.signed == score.signed == (name in SIGNED)
    assert bool((z < 0).any()) == (name in SIGNED)
    assert dictionary.n_latents == (8 if name in SIGNED else 64)
    assert (codec.encode_sparse(train[:50]).toarray() == codec.encode(train[:50]).numpy()).all()


def test_pca_keeps_all_of_the_variance_with_all_components_and_is_orthogonal(
    stored: StoredActivations, tmp_path: Path
) -> None:
    learner, dictionary = fit("pca", stored, tmp_path, k=8)
    codec = learner.load(dictionary)
    score = score_dictionary(dictionary, codec, stored, None, RunContext(out_dir=tmp_path, seed=0))
    assert score.fvu.value < 1e-6
    rows = decoder_rows(codec, 8) / stored.moments(stored.split().train).std
    np.testing.assert_allclose(rows @ rows.T, np.eye(8), atol=1e-5)
    x = np.concatenate([d.values[d.ranked] for d in stored.documents(stored.split().train)]).astype(np.float64)
    _, vectors = np.linalg.eigh(np.corrcoef(x.T))
    np.testing.assert_allclose(np.abs((rows @ vectors[:, ::-1]).diagonal()), 1, atol=1e-3)


def test_ica_finds_the_sources_that_were_mixed(tmp_path: Path) -> None:
    made, mixing = documents(8000)
    stored = open_set(tiny_activations(tmp_path / "a", made))
    learner, dictionary = fit("ica", stored, tmp_path / "d")
    std = stored.moments().std
    found = decoder_rows(learner.load(dictionary), 8) / std
    assert matched_cosines(mixing / std, found, signed=True).mean() > 0.98
    pca_learner, pca = fit("pca", stored, tmp_path / "p")
    rows = decoder_rows(pca_learner.load(pca), 8) / std
    assert matched_cosines(mixing / std, rows, signed=True).mean() < 0.95, "which pca does not"


def test_k_means_finds_planted_directions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(16, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = directions[rng.integers(0, 16, 4000)] * (1 + rng.random((4000, 1))) + rng.normal(size=(4000, 8)) * 0.02
    stored = open_set(tiny_activations(tmp_path / "a", {f"d{i}": p for i, p in enumerate(np.array_split(x, 20))}))
    learner, dictionary = fit("k-means", stored, tmp_path / "d", seed=1, k=1, expansion=4, standardise=False)
    found = decoder_rows(learner.load(dictionary), 32)
    centred = directions - x.mean(0) / 1.5
    assert matched_cosines(centred, found, signed=False).mean() > 0.95
    random_learner, random = fit("random-dictionary", stored, tmp_path / "r", seed=1, k=1, expansion=4)
    assert matched_cosines(centred, decoder_rows(random_learner.load(random), 32), signed=False).mean() < 0.9


def test_identity_keeps_the_columns_that_are_furthest_from_their_mean(
    stored: StoredActivations, tmp_path: Path
) -> None:
    learner, dictionary = fit("identity", stored, tmp_path)
    codec = learner.load(dictionary)
    moments = stored.moments(stored.split().train)
    x = np.array(stored.document("d3").values)
    standard = (x - moments.mean) / moments.std
    z = codec.encode(torch.from_numpy(x)).numpy()
    threshold = np.abs(z[z != 0]).min()
    np.testing.assert_allclose(z, np.where(np.abs(standard) >= threshold - 1e-5, standard, 0), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_is_the_least_squares_one_of_its_codes(
    name: str, stored: StoredActivations, tmp_path: Path
) -> None:
    """No other decoder of these codes is better: numpy's lstsq, on all training codes at once, has the same error.

    1e-5 of the error: weights are float32, and the new bias may round codes at the threshold to their other side.
    """
    learner, dictionary = fit(name, stored, tmp_path)
    codec = learner.load(dictionary)
    train = np.concatenate([d.values[d.ranked] for d in stored.documents(stored.split().train)])
    z = codec.encode(torch.from_numpy(train)).numpy().astype(np.float64)
    design = np.hstack([z, np.ones((len(z), 1))])
    best = design @ np.linalg.lstsq(design, train.astype(np.float64), rcond=None)[0]
    rebuilt = codec.decode(torch.from_numpy(z).float()).double().numpy()
    errors = [float(np.square((train - guess) / train.std(0)).sum()) for guess in (rebuilt, best)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_held_out_documents_are_not_looked_at(stored: StoredActivations, tmp_path: Path) -> None:
    held_out = set(stored.split().held_out)
    changed = {d.id: d.values * (100 if d.id in held_out else 1) for d in stored.documents()}
    other = open_set(tiny_activations(tmp_path / "set", changed, shard_tokens=2000))
    for name in NAMES:
        _, one = fit(name, stored, tmp_path / name / "one")
        _, two = fit(name, other, tmp_path / name / "two")
        weights = "sae_weights.safetensors"
        assert (one.path / weights).read_bytes() == (two.path / weights).read_bytes(), name


def test_a_sample_is_taken_of_many_tokens_and_the_seed_decides(stored: StoredActivations, tmp_path: Path) -> None:
    weights = [
        (fit("pca", stored, tmp_path / str(i), seed=seed, tokens=n)[1].path / "sae_weights.safetensors").read_bytes()
        for i, (seed, n) in enumerate([(0, 1000), (0, 1000), (1, 1000), (0, 10**6)])
    ]
    assert weights[0] == weights[1]
    assert len(set(weights)) == 3


def test_a_finished_fit_is_not_repeated(stored: StoredActivations, tmp_path: Path) -> None:
    _, first = fit("pca", stored, tmp_path)
    written = (first.path / "cfg.json").stat().st_mtime_ns
    assert fit("pca", stored, tmp_path)[1] == first
    assert (first.path / "cfg.json").stat().st_mtime_ns == written
    fit("pca", stored, tmp_path, k=3)
    assert (first.path / "cfg.json").stat().st_mtime_ns != written


def test_ica_that_has_not_converged_says_so(
    stored: StoredActivations, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fit("ica", stored, tmp_path, max_iterations=1)
    assert "not converged after 1 iterations (ica.max_iterations)" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_unusable_data_is_named(name: str, tmp_path: Path) -> None:
    made, _ = documents(600, 4)
    for values in made.values():
        values[:, 1] = 3
    constant = open_set(tiny_activations(tmp_path / "c", made))
    with pytest.raises(DataError, match=r"L1\.q_proj is constant"):
        fit(name, constant, tmp_path / "d")
    few = open_set(
        tiny_activations(tmp_path / "f", {f"d{i}": np.random.default_rng(i).normal(size=(2, 4)) for i in range(4)})
    )
    with pytest.raises(DataError, match=r"3 training tokens for \d+ latents"):
        fit(name, few, tmp_path / "d")
    good = open_set(tiny_activations(tmp_path / "g", documents(600, 4)[0]))
    with pytest.raises(UsageError, match=rf"{name}\.k=99: there are only"):
        fit(name, good, tmp_path / "d", k=99)


def test_columns_that_depend_on_each_other_have_no_independent_components(tmp_path: Path) -> None:
    made, _ = documents(600, 4)
    for values in made.values():
        values[:, 3] = values[:, 0] + values[:, 1]
    stored = open_set(tiny_activations(tmp_path / "a", made))
    with pytest.raises(DataError, match=r"linearly dependent.*use pca"):
        fit("ica", stored, tmp_path / "i")
    fit("pca", stored, tmp_path / "p")
