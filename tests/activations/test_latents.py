"""Latents are an activation set like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from harness.activations.exemplars import collect_features
from harness.activations.latents import encode_set
from harness.activations.store import StoredActivations, open_set
from harness.dictionaries.activity import activity_of_set
from harness.errors import DataError
from harness.records import Dictionary
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
    assert int(activity_of_set(latents).alive.sum()) == sum(bool(f.exemplars) for f in features) == 4


class Signed(Halves):
    """A latent per column, active in both directions."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.abs() > 0.5)


def test_signed_latents_are_features_of_both_polarities(tmp_path: Path) -> None:
    stored, _ = made_up(tmp_path / "a")
    dictionary = Dictionary(name="s", path=tmp_path, columns=stored.columns, n_latents=3, k=2, signed=True)
    latents = open_set(encode_set(Signed(), stored, tmp_path / "z", dictionary, dtype="float32"))
    assert latents.set.signed
    found = {f.feature: f for f in collect_features(latents, k=3, cap=None)}
    assert list(found) == ["latent0+", "latent0-", "latent1+", "latent1-", "latent2+", "latent2-"]
    ranked = np.concatenate([d.values[d.ranked] for d in stored.documents()])
    for sign, name in ((1, "latent1+"), (-1, "latent1-")):
        column = np.maximum(sign * ranked[:, 1], 0)
        assert found[name].activation_max == pytest.approx(column.max())
        assert found[name].density_per_token == pytest.approx((column > 0.5).mean())
        highest = found[name].exemplars[0]
        assert highest.activations[highest.target] == pytest.approx(column.max(), rel=5e-5)  # five digits


def test_a_dictionary_of_other_columns_is_refused(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path)
    other = dictionary.model_copy(update={"columns": ("L0.q_proj", "L2.q_proj", "L1.q_proj")})
    with pytest.raises(DataError, match=r"other columns.*'L1.q_proj' for 'L2.q_proj'"):
        encode_set(Halves(), stored, tmp_path / "z", other)
