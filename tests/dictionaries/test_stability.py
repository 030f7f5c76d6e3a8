"""Matching decoder rows across seeds."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from harness.dictionaries.stability import decoder_rows, matched_cosines


def test_the_matching_is_the_best_of_all_permutations() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    best = max(sum(cosine[i, p] for i, p in enumerate(order)) for order in permutations(range(5)))
    assert matched_cosines(a, b, signed=False).sum() == pytest.approx(best)
    assert matched_cosines(a, b, signed=False).mean() < cosine.max(1).mean(), "a matching, not everybody's favourite"


def test_order_length_and_for_signed_latents_sign_do_not_matter() -> None:
    a = np.random.default_rng(1).normal(size=(6, 4))
    shuffled = a[[3, 1, 5, 0, 2, 4]] * np.linspace(0.1, 9, 6)[:, None]
    np.testing.assert_allclose(matched_cosines(a, shuffled, signed=False), 1)
    np.testing.assert_allclose(matched_cosines(a, -shuffled, signed=True), 1)
    assert matched_cosines(a, -shuffled, signed=False).mean() < 0.9


def test_the_smaller_set_decides_how_many_pairs() -> None:
    a = np.eye(4)
    assert len(matched_cosines(a, a[:2], signed=False)) == 2


def test_decoder_rows_are_what_one_unit_of_a_latent_adds() -> None:
    W, b = torch.randn(3, 5), torch.randn(5)

    class Codec:
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z @ W + b

    np.testing.assert_allclose(decoder_rows(Codec(), 3), W.numpy(), atol=1e-5)  # type: ignore[arg-type]
