"""Selection: every entry above a cut is found, and a batch's survivors are those of sorting all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_plugins.dictionaries.selection import BatchTop, Precision, Scanner

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def problem(
    seed: int, n: int, d_in: int, n_latents: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, weights, biases and scales of very different sizes; one latent's bias towers over all."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_in, generator=g) * torch.logspace(-2, 2, n)[torch.randperm(n, generator=g), None]
    weight = torch.randn(n_latents, d_in, generator=g) * torch.logspace(-1, 1, n_latents)[:, None]
    bias = torch.randn(n_latents, generator=g)
    bias[0] = 300.0
    return x, weight, bias, torch.rand(n_latents, generator=g) + 0.1


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
    return (x.double() @ weight.double().T + bias.double()).numpy()


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 70), d_in=st.integers(1, 70), n_latents=st.integers(1, 90),
    share=st.floats(0, 0.5), scaled=st.booleans(),
)  # fmt: skip
def test_every_entry_above_the_cut_is_found(
    precision: Precision, seed: int, n: int, d_in: int, n_latents: int, share: float, scaled: bool
) -> None:
    x, weight, bias, scale = problem(seed, n, d_in, n_latents)
    scores = exact(x, weight, bias) * (scale.double().numpy() if scaled else 1)
    cut = max(float(np.quantile(scores, 1 - share)), 0.0)
    scanner = Scanner(weight, bias, precision)
    scanner.refresh(scale if scaled else None)
    found = scanner.above(x, cut)
    mine = np.zeros(scores.shape, dtype=bool)
    mine[found.tokens, found.latents] = True
    # Where float32 cannot tell which side of the cut an entry is on, either is right.
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(weight, axis=1) * (scale.numpy() if scaled else 1)
    clear = np.abs(scores - cut) > 1e-5 * (size + np.abs(scores))
    assert np.array_equal(mine[clear], (scores > cut)[clear])
    expected = exact(x, weight, bias)[found.tokens, found.latents]
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5 * (1 + float(size.max())))
    order = found.latents * n + found.tokens
    assert bool((order[1:] > order[:-1]).all())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_selection_is_that_of_a_dense_topk(precision: Precision) -> None:
    """60 batches of 512 tokens over 896 latents: none of 27 million entries differs."""
    g = torch.Generator().manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(896, 112, generator=g))
    bias = 0.05 * torch.randn(896, generator=g)
    scanner = Scanner(weight, bias, precision)
    top = BatchTop(scanner)
    for _ in range(60):
        weight.add_(torch.randn(weight.shape, generator=g), alpha=2e-3)
        x = torch.randn(512, 112, generator=g)
        scanner.refresh()
        kept, threshold = top(x, 16 * 512)
        dense = torch.relu(x @ weight.T + bias)
        best = dense.flatten().topk(16 * 512)
        assert set((kept.tokens * 896 + kept.latents).tolist()) == set(best.indices.tolist())
        assert threshold == pytest.approx(float(best.values.min()), rel=1e-5)
    assert top.retries < 10


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_guess_that_is_too_high_is_taken_back(precision: Precision) -> None:
    x, weight, bias, _ = problem(0, 300, 20, 50)
    scanner = Scanner(weight, bias, precision)
    scanner.refresh()
    fresh, threshold = BatchTop(scanner)(x, 600)
    top = BatchTop(scanner)
    top._last, top._spread = 1e6, 0.0
    kept, again = top(x, 600)
    assert top.retries > 0
    assert again == threshold
    assert torch.equal(kept.tokens, fresh.tokens)
    assert torch.equal(kept.latents, fresh.latents)


def test_ties_are_broken_by_position_and_never_exceed_the_number() -> None:
    scanner = Scanner(torch.eye(4), torch.zeros(4), "fp32")
    scanner.refresh()
    kept, threshold = BatchTop(scanner)(torch.ones(5, 4), 7)
    assert threshold == 1
    assert len(kept) == 7
    assert kept.latents.tolist() == [0] * 5 + [1] * 2
    assert kept.tokens.tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_fewer_positive_entries_than_asked_for_are_all_there_is() -> None:
    scanner = Scanner(torch.eye(3), torch.zeros(3), "bf16")
    scanner.refresh()
    x = torch.tensor([[1.0, -1, 0], [0, 0, 2]])
    kept, threshold = BatchTop(scanner)(x, 5)
    assert kept.values.tolist() == [1, 2]
    assert threshold == 1
    nothing, threshold = BatchTop(scanner)(-torch.ones(2, 3), 5)
    assert (len(nothing), threshold) == (0, 0.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_large_bias_does_not_make_everything_a_candidate(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is each latent's own: a global one would let all 200 x 512 entries through."""
    g = torch.Generator().manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(200, 30, generator=g))
    bias = torch.zeros(200)
    bias[7] = 50.0
    scored: list[int] = []
    real = Scanner._scored

    def counting(self: Scanner, x: torch.Tensor, places: np.ndarray) -> object:
        scored.append(len(places))
        return real(self, x, places)

    monkeypatch.setattr(Scanner, "_scored", counting)
    scanner = Scanner(weight, bias, precision)
    scanner.refresh()
    found = scanner.above(torch.randn(512, 30, generator=g), 2.5)
    assert 512 < len(found) <= scored[0] < 2 * len(found) + 512
