"""Latents are an activation set like any other; a dictionary's score is the same arithmetic for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from harness.activations.exemplars import collect_features
from harness.activations.latents import count_alive, encode_set, reconstruction, score_dictionary
from harness.activations.store import StoredActivations, open_set
from harness.errors import DataError
from harness.model.subject import Subject
from harness.records import Dictionary
from harness.stages import RunContext
from harness.testing import tiny_activations


class Halves:
    """A codec of two latents per column, one for each sign, and a threshold."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.cat([x, -x], dim=1).clamp(min=0)
        return z * (z > 0.5)

    def encode_sparse(self, x: torch.Tensor) -> csr_array:
        return csr_array(self.encode(x).numpy())

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        plus, minus = z.chunk(2, dim=1)
        return plus - minus


class Nothing(Halves):
    """Predicts a constant."""

    def __init__(self, constant: np.ndarray) -> None:
        self.constant = torch.tensor(constant)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.constant.expand(len(z), -1)


def made_up(folder: Path) -> tuple[StoredActivations, Dictionary]:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.normal(size=(30, 3)) * [1, 2, 0.1] for i in range(20)}
    stored = open_set(tiny_activations(folder, documents, shard_tokens=100))
    return stored, Dictionary(name="halves", path=folder, columns=stored.columns, n_latents=6, k=2)


def test_codes_are_stored_beside_the_same_documents(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    latents = open_set(encode_set(Halves(), stored, tmp_path / "z", dictionary, dtype="float32"))
    assert latents.columns == tuple(f"latent{i}" for i in range(6))
    assert (latents.set.signed, latents.set.source, latents.set.layers) == (False, "halves", (None,) * 6)
    assert latents.sparse
    for document in stored.documents():
        expected = Halves().encode(torch.tensor(np.array(document.values)))
        np.testing.assert_array_equal(latents.document(document.id).values, expected)
        assert latents.document(document.id).text == document.text


def test_latents_alive_are_those_with_exemplars(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    latents = open_set(encode_set(Halves(), stored, tmp_path / "z", dictionary))
    features = list(collect_features(latents, k=3))
    assert count_alive(latents) == sum(bool(f.exemplars) for f in features) == 4


def test_predicting_the_held_out_mean_has_fvu_one(tmp_path: Path) -> None:
    stored, _ = made_up(tmp_path)
    held_out = stored.split().held_out
    sums = reconstruction(Nothing(stored.moments(held_out).mean), stored, held_out)
    assert sums.residual.sum() / sums.total.sum() == pytest.approx(1)


def test_fvu_and_l0_are_what_numpy_says(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    latents = open_set(encode_set(Halves(), stored, tmp_path / "z", dictionary))
    score = score_dictionary(dictionary, Halves(), stored, latents, None, RunContext(out_dir=tmp_path, seed=0))
    held_out = stored.split().held_out
    x = np.concatenate([stored.document(d).values for d in held_out]).astype(np.float64)
    kept = np.where(np.abs(x) > 0.5, x, 0)
    assert score.fvu == pytest.approx(((x - kept) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-6)
    assert score.l0 == pytest.approx((kept != 0).sum() / len(x))
    assert score.fvu_ci_low <= score.fvu <= score.fvu_ci_high
    assert (score.n_documents, score.n_tokens) == (len(held_out), len(x))
    assert score.kl_recovered is None
    assert score.reason == "no model was given"


def test_a_set_that_is_not_the_adapters_scalars_has_no_splice(tmp_path: Path, tiny_subject: Subject) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    latents = open_set(encode_set(Halves(), stored, tmp_path / "z", dictionary))
    run = RunContext(out_dir=tmp_path, seed=0)
    score = score_dictionary(dictionary, Halves(), stored, latents, tiny_subject, run)
    assert score.kl_splice_nats is None
    assert "does not read the adapter's scalars" in str(score.reason)


def test_a_dictionary_of_other_columns_is_refused(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path)
    other = dictionary.model_copy(update={"columns": ("L0.q_proj", "L2.q_proj", "L1.q_proj")})
    with pytest.raises(DataError, match=r"other columns.*'L1.q_proj' for 'L2.q_proj'"):
        encode_set(Halves(), stored, tmp_path / "z", other)
