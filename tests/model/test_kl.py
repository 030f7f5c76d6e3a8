"""KL in nats: never negative, exactly 0 for equal logits, right where differences are small and where they are huge."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from harness.model.kl import kl_nats


def oracle(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The definition, in float64 (good to 1e-15 nats absolute, so use it at 1e-8 nats and above)."""
    log_p, log_q = log_softmax(p.astype(np.float64), -1), log_softmax(q.astype(np.float64), -1)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-4, 1.5), st.floats(0.1, 8))
def test_it_agrees_with_float64(seed: int, log10_difference: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    p = (rng.normal(size=(4, 500)) * spread).astype(np.float32)
    q = (p + rng.normal(size=p.shape) * 10**log10_difference).astype(np.float32)
    expected = oracle(p, q)
    found = kl_nats(torch.from_numpy(p), torch.from_numpy(q)).numpy()
    # float32 has 7 digits, and sums of 500 terms lose one or two of them.
    large = expected > 1e-8
    np.testing.assert_allclose(found[large], expected[large], rtol=1e-3)


def test_small_divergences_are_not_lost() -> None:
    """At 1e-4 nats the difference of log-softmaxes in bfloat16 is noise; this form keeps three digits."""
    rng = np.random.default_rng(0)
    p = (rng.normal(size=(8, 4000)) * 6).astype(np.float32)
    q = (p + rng.normal(size=p.shape) * 0.014).astype(np.float32)
    expected = oracle(p, q)
    assert 3e-5 < expected.mean() < 3e-4
    np.testing.assert_allclose(kl_nats(torch.from_numpy(p), torch.from_numpy(q)).numpy(), expected, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-8, 3), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_it_is_never_negative_and_zero_for_equal_logits(seed: int, log10_spread: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(2, 3, 50, generator=generator) * 10**log10_spread).to(dtype)
    kl = kl_nats(p, q)
    assert kl.shape == (3,)
    assert bool((kl >= -1e-6).all())
    assert torch.equal(kl_nats(p, p), torch.zeros_like(kl))


def test_the_first_argument_is_the_reference() -> None:
    """P = (1/2, 1/2), q = (3/4, 1/4): KL(p ‖ q) = ln(2/3)/2 + ln(2)/2, KL(q ‖ p) = 3/4 ln(3/2) - 1/4 ln 2."""
    p, q = torch.tensor([0.0, 0.0]), torch.log(torch.tensor([0.75, 0.25]))
    assert float(kl_nats(p, q)) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-5)
    assert float(kl_nats(q, p)) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), rel=1e-5)


def test_adding_a_constant_to_all_logits_changes_nothing() -> None:
    p = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kl_nats(p, p + 3), torch.zeros(5), atol=1e-9, rtol=0)


def test_huge_differences_do_not_overflow() -> None:
    p, q = torch.tensor([[0.0, 200.0], [1.0, 0.0]]), torch.tensor([[200.0, 0.0], [0.0, 1.0]])
    found = kl_nats(p, q)
    assert float(found[0]) == pytest.approx(200, rel=1e-6)
    np.testing.assert_allclose(found.numpy(), oracle(p.numpy(), q.numpy()), rtol=1e-5)
