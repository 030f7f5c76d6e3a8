from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.reports.common.differences import (
    group_difference,
    independent_difference,
    mean_difference,
    paired_difference,
)
from harness.stats import Estimate, share


def test_paired_difference_is_bonett_and_prices_interval() -> None:
    a, b = [1] * 30 + [1] * 12 + [0] * 3 + [0] * 55, [1] * 30 + [0] * 12 + [1] * 3 + [0] * 55
    p12, p21 = 13 / 102, 4 / 102  # with one pseudo-item each
    half = scipy_stats.norm.ppf(0.975) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / 102)
    found = paired_difference(a, b)
    assert found.value == pytest.approx(0.09)
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half))


def test_paired_difference_covers() -> None:
    """At n = 30 with dependent answers; 95 % nominal, 2,000 draws: the standard error is 0.5 points."""
    rng = np.random.default_rng(0)
    truth = 0.6 - float(np.mean((rng.random(1_000_000) + rng.normal(0, 0.2, 1_000_000)) < 0.45))
    hits = 0
    for _ in range(2000):
        luck = rng.random(30)
        a, b = luck < 0.6, (luck + rng.normal(0, 0.2, 30)) < 0.45
        found = paired_difference(a.astype(float), b.astype(float))
        hits += found.low <= truth <= found.high
    assert hits / 2000 > 0.93


def test_identical_answers_differ_by_zero_but_not_surely() -> None:
    found = paired_difference([1, 0, 1], [1, 0, 1])
    assert found.value == 0
    assert found.low < -0.5 < 0.5 < found.high
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1, 0], [1])


def test_independent_difference_of_shares_is_newcombes() -> None:
    """Newcombe 1998, method 10, example (a): 56/70 and 48/80 differ by 0.20, 0.0524 to 0.3339."""
    found = independent_difference(share(56, 70), share(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_an_unbounded_part_makes_the_difference_unbounded() -> None:
    found = independent_difference(Estimate(1.0, -math.inf, math.inf), Estimate(0.5, 0.4, 0.6))
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_group_difference_is_welchs() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 2, 40), rng.normal(0, 0.5, 25)
    (ours, p), test = group_difference(a, b), scipy_stats.ttest_ind(a, b, equal_var=False)
    theirs = test.confidence_interval()
    # Ours takes the next lower whole degree of freedom: never narrower, by well under 1 % here.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)
    assert ours.low <= theirs.low
    assert test.pvalue <= p < 1.1 * test.pvalue
    for x, y in (([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0])):
        assert (group_difference(x, y).difference.bounded, group_difference(x, y).p_value) == (False, 1.0)


def test_mean_difference_is_students() -> None:
    values = np.random.default_rng(2).normal(3, 1, 12)
    expected = scipy_stats.t.interval(0.95, 11, values.mean(), scipy_stats.sem(values))
    found, p = mean_difference(values - 2.5)
    assert (found.low + 2.5, found.high + 2.5) == pytest.approx(expected)
    assert p == pytest.approx(scipy_stats.ttest_1samp(values, 2.5).pvalue)
    assert not mean_difference([1.0]).difference.bounded
