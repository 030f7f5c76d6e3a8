"""abs-topk: signed latents find signed directions with half the latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.scoring import score_dictionary
from harness.dictionaries.stability import decoder_rows, matched_cosines
from harness.errors import UsageError
from harness.records import Dictionary
from harness.testing import tiny_activations
from harness_plugins.dictionaries import abs_topk, batch_topk


def planted(n_tokens: int = 16_000, d_in: int = 32, n: int = 40, active: int = 2) -> tuple[dict[str, Any], np.ndarray]:
    """Tokens that are sums of `active` of `n` unit directions, either way round, in columns of different scale."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n, d_in))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = rng.random((n_tokens, n)).argsort(1)[:, :active]
    sizes = (0.5 + rng.exponential(size=chosen.shape)) * rng.choice([-1, 1], chosen.shape)
    x = (sizes[:, :, None] * directions[chosen]).sum(1) * np.geomspace(0.1, 10, d_in)
    return {f"d{i}": part for i, part in enumerate(np.array_split(x, 40))}, directions


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    return open_set(tiny_activations(tmp_path_factory.mktemp("set"), planted()[0]))


def fit(module: Any, stored: StoredActivations, folder: Path, **config: Any) -> tuple[Any, Dictionary]:
    (offer,) = module.harness_dictionaries()
    learner = offer.implementation()(offer.config(**config))
    return learner, learner.fit(stored.set, RunContext(out_dir=folder, seed=0))


SETTINGS = {"k": 2, "steps": 800, "lr": 5e-3, "batch_size": 256, "dead_after_tokens": 5000}


def test_planted_signed_directions_are_found(stored: StoredActivations, tmp_path: Path) -> None:
    learner, dictionary = fit(abs_topk, stored, tmp_path / "s", expansion=3, **SETTINGS)
    codec = learner.load(dictionary)
    found = decoder_rows(codec, dictionary.n_latents) / np.geomspace(0.1, 10, 32)
    assert matched_cosines(planted()[1], found, signed=True).mean() > 0.95
    score = score_dictionary(dictionary, codec, stored, None, RunContext(out_dir=tmp_path, seed=0))
    assert score.signed
    assert score.l0.value == pytest.approx(2, rel=0.1)
    assert score.fvu.value < 0.12
    x = torch.from_numpy(np.array(stored.document("d1").values))
    z = codec.encode(x)
    assert 0.3 < float((z > 0).sum()) / float((z != 0).sum()) < 0.7
    alone = torch.cat([codec.encode(row[None]) for row in x[:20]])
    assert torch.equal(alone, z[:20]), "a token's code is its own"


def test_the_name_is_the_learners_own(stored: StoredActivations, tmp_path: Path) -> None:
    _, dictionary = fit(abs_topk, stored, tmp_path, k=2, steps=5)
    assert (dictionary.name, dictionary.signed, dictionary.n_latents) == ("abs-topk", True, 128)
    with pytest.raises(UsageError, match=r"abs-topk\.k=999"):
        fit(abs_topk, stored, tmp_path / "x", k=999)
    with pytest.raises(ValueError, match="paper-code"):
        abs_topk.AbsTopKConfig(variant="paper-code")  # type: ignore[arg-type]
    assert not fit(batch_topk, stored, tmp_path / "b", k=2, steps=5)[1].signed
