"""Calibration: one L0 for every dictionary, and a decoder by least squares, held against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.weights import Weights, load_weights
from harness.testing import tiny_activations
from harness_plugins.dictionaries import batch_topk, frozen_decoder
from harness_plugins.dictionaries.calibration import at_l0, kth_largest, sample_tokens, with_best_decoder
from harness_plugins.dictionaries.files import open_codec


def weights(d_in: int = 3, n: int = 5, *, signed: bool, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(shape, generator=generator) for shape in ((d_in, n), (n, d_in), (n,), (d_in,))]
    return Weights(*draw, threshold=torch.zeros(n), signed=signed)


def a_set(folder: Path, n_documents: int = 20) -> StoredActivations:
    rng = np.random.default_rng(0)
    made = {f"d{i}": rng.normal(size=(40, 3)) * [1, 5, 0.2] + [0, 3, 1] for i in range(n_documents)}
    return open_set(tiny_activations(folder, made, shard_tokens=200))


@pytest.mark.parametrize("signed", [False, True])
def test_the_kth_largest_is_what_sorting_says_and_leaves_k_codes_per_token(signed: bool) -> None:
    x, made = torch.randn(9000, 3, generator=torch.Generator().manual_seed(1)), weights(signed=signed)
    pre = (x - made.b_dec) @ made.W_enc + made.b_enc
    sizes = (pre.abs() if signed else pre.relu()).flatten().sort(descending=True).values
    assert kth_largest(made, x, 15_000) == pytest.approx(float(sizes[14_999]), rel=1e-6)
    # A product of another shape may round the one code at the threshold to its other side.
    assert abs(open_codec(at_l0(made, x, 1.5)).encode_sparse(x).nnz - 1.5 * len(x)) <= 2


def test_where_fewer_codes_than_asked_for_are_positive_all_are_kept() -> None:
    x, made = torch.randn(500, 3, generator=torch.Generator().manual_seed(1)), weights(signed=False)
    assert kth_largest(made, x, 500 * 5) == 0.0
    assert at_l0(made, x, 5).threshold.tolist() == [0.0] * 5


@pytest.mark.parametrize("signed", [False, True])
def test_the_decoder_is_numpys_least_squares_and_the_codes_stay(signed: bool, tmp_path: Path) -> None:
    stored = a_set(tmp_path)
    train = stored.split().train
    x = sample_tokens(stored, train, 10**6, seed=0)
    made = at_l0(weights(signed=signed), x, 1.5)
    made.W_enc[:, 3] = made.W_enc[:, 2]  # two latents that are always equal: only the least norm is defined
    made.b_enc[3] = made.b_enc[2]
    made.b_enc[4], made.W_enc[:, 4] = -1.0, 0.0  # and one that is silent
    made.threshold[4] = 2.0
    found = with_best_decoder(made, stored, train)
    before, after = open_codec(made).encode(x), open_codec(found).encode(x)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    design = np.hstack([before.double().numpy(), np.ones((len(x), 1))])
    rebuilt = open_codec(found).decode(before).double().numpy()
    best = design @ np.linalg.lstsq(design, x.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(rebuilt, best, rtol=1e-4, atol=1e-4)  # float32 weights
    torch.testing.assert_close(found.W_dec[2], found.W_dec[3])
    assert torch.equal(found.W_dec[4], made.W_dec[4]), "a latent without codes keeps its row"


def test_the_documents_may_come_in_any_number_of_shards(tmp_path: Path) -> None:
    """One pass, sums only: the same solution whatever the shards, up to the order of float64 sums."""
    stored, made = a_set(tmp_path / "a"), weights(signed=False)
    whole = {d.id: np.asarray(d.values) for d in stored.documents()}
    one = open_set(tiny_activations(tmp_path / "b", whole, shard_tokens=10**6))
    assert len(one.manifest.shards) < len(stored.manifest.shards)
    first, second = (with_best_decoder(made, s, s.split().train) for s in (stored, one))
    torch.testing.assert_close(first.W_dec, second.W_dec)


@pytest.mark.parametrize("module", [batch_topk, frozen_decoder])
def test_trained_dictionaries_have_k_codes_per_training_token(module: object, tmp_path: Path) -> None:
    stored = a_set(tmp_path / "a", 40)
    (offer,) = module.harness_dictionaries()  # type: ignore[attr-defined]
    learner = offer.implementation()(offer.config(k=2, expansion=4, steps=60, batch_size=64))
    dictionary = learner.fit(stored.set, RunContext(out_dir=tmp_path / "d", seed=0))
    x = sample_tokens(stored, stored.split().train, 10**6, seed=0)
    assert abs(learner.load(dictionary).encode_sparse(x).nnz - 2 * len(x)) <= 3


@pytest.mark.parametrize("compute", ["dense", "fp32"])
def test_a_frozen_decoder_is_as_it_was_drawn_and_its_encoder_is_not(compute: str, tmp_path: Path) -> None:
    stored = a_set(tmp_path / "a", 40)
    (offer,) = frozen_decoder.harness_dictionaries()
    assert offer.baseline
    read = []
    for steps in (1, 80):
        config = offer.config(k=2, expansion=4, steps=steps, batch_size=64, standardise="none", compute=compute)
        learner = offer.implementation()(config)
        read.append(load_weights(learner.fit(stored.set, RunContext(out_dir=tmp_path / str(steps), seed=0)).path))
    assert torch.equal(read[0].W_dec, read[1].W_dec)
    torch.testing.assert_close(read[0].W_dec.norm(dim=1), torch.ones(12))
    assert (read[0].W_enc - read[1].W_enc).abs().max() > 0.01
    assert not torch.equal(read[0].b_dec, read[1].b_dec)
