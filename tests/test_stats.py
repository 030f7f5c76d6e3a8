from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as oracle

from harness.stats import (
    Estimate,
    Undefined,
    clustered_share,
    mcnemar_exact,
    paired_t,
    ratio_over_documents,
    ratio_over_many,
    recovery,
    recovery_of_losses,
    share,
    spearman,
    t_p_value,
    t_quantile,
)

bits = st.integers(0, 1)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_share_is_scipys_wilson(case: tuple[int, int], level: float) -> None:
    k, n = case
    expected = oracle.binomtest(k, n).proportion_ci(level, method="wilson")
    found = share(k, n, level=level)
    assert found.value == k / n
    # both are the same closed form; 1e-9 is rounding
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_share_refuses_nothing_and_the_impossible() -> None:
    for k, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="n > 0"):
            share(k, n)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 29, 200, 201, 5000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_t_quantile_is_scipys(level: float, df: int) -> None:
    # finite sums up to 200 degrees, a series with an error below 1e-8 beyond
    assert t_quantile(level, df) == pytest.approx(oracle.t.ppf((1 + level) / 2, df), rel=1e-8)


@pytest.mark.parametrize("df", [1, 2, 3, 7, 29, 200, 499])
@pytest.mark.parametrize("t", [0.0, 0.3, -2.1, 5.0])
def test_t_p_value_is_scipys(t: float, df: int) -> None:
    # one less a finite sum: absolute errors are those of doubles, at most 500 terms of them
    assert t_p_value(t, df) == pytest.approx(2 * oracle.t.sf(abs(t), df), abs=1e-12)


@given(st.lists(st.tuples(bits, bits), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    up, down = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    expected = oracle.binomtest(up, up + down, 0.5).pvalue if up + down else 1.0
    assert mcnemar_exact(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(a, b) == mcnemar_exact(b, a)


def test_mcnemar_of_long_lists_does_not_overflow() -> None:
    assert mcnemar_exact([1] * 3000, [0] * 3000) < 1e-300


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert isinstance(found, Undefined)
    else:
        assert found == pytest.approx(oracle.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_needs_three_pairs() -> None:
    assert isinstance(spearman([1, 2], [2, 1]), Undefined)


def test_ratio_is_the_ratio_of_sums_not_the_mean_of_ratios() -> None:
    found = ratio_over_documents([1.0, 30.0], [10.0, 100.0])
    assert found.value == pytest.approx(31 / 110)
    assert found.n == 2


def textbook_bootstrap_t(num: np.ndarray, den: np.ndarray, n_resamples: int, seed: int) -> tuple[float, float]:
    """Efron & Tibshirani (1993), 12.5, one resample after the other; the standard error is Cochran's (1977, 6.4)."""

    def ratio_and_error(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        ratio = x.sum() / y.sum()
        return ratio, math.sqrt(np.var(x - ratio * y, ddof=1) / len(x)) / y.mean()

    rng = np.random.default_rng(seed)
    ratio, error = ratio_and_error(num, den)
    draws = [rng.choice(len(num), len(num)) for _ in range(n_resamples)]
    found = [ratio_and_error(num[rows], den[rows]) for rows in draws]
    low, high = np.quantile([(r - ratio) / e for r, e in found], [0.025, 0.975])
    return ratio - high * error, ratio - low * error


def test_ratio_has_the_textbooks_bootstrap_t() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(50, 500, 40).astype(float)
    sums = lengths * rng.gamma(2.0, 0.1, 40)
    low, high = textbook_bootstrap_t(sums, lengths, 6000, seed=2)
    found = ratio_over_documents(sums, lengths, n_resamples=6000)
    # the Monte Carlo error of a 2.5 % quantile of 6,000 draws is 3.5 % of a standard error, some 1 % of the width, and
    # twice as much in the long tail; two independent draws, three standard errors
    assert found.high == pytest.approx(high, abs=0.06 * (high - low))
    # below, where the tail is short, Student's is the longer
    ratio = sums.sum() / lengths.sum()
    error = math.sqrt(np.var(sums - ratio * lengths, ddof=1) / 40) / lengths.mean()
    assert found.low == pytest.approx(min(low, ratio - oracle.t.ppf(0.975, 39) * error), abs=0.06 * (high - low))
    assert found.high - found.value > 1.05 * (found.value - found.low)


def test_ratio_of_few_documents_is_students_t() -> None:
    """With equal denominators this is the interval of a mean."""
    values = np.array([3.0, 4.0, 3.5, 5.0, 4.5, 2.5, 4.0])
    found = ratio_over_documents(values, np.ones(7))
    expected = oracle.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    eight, student = [*values, 9.0], oracle.ttest_1samp([*values, 9.0], 0).confidence_interval(0.95)
    assert ratio_over_documents(eight, np.ones(8)).high > 1.05 * student.high


def test_ratio_stays_where_ratios_can_be() -> None:
    assert ratio_over_documents([0.0, 0.0, 1.0], [1.0] * 3).low == 0.0
    assert ratio_over_documents([1.0, 1.0, 0.0], [1.0] * 3).high == 1.0
    assert ratio_over_documents([0.0, -0.1, 1.0], [1.0] * 3).low < 0.0
    assert ratio_over_documents([1.0, 1.1, 0.0], [1.0] * 3).high > 1.0


def test_ratio_leaves_out_resamples_without_a_spread() -> None:
    """Nine documents of ten alike: a third of the resamples hold no other, and are an error of 0 over 0.

    Those that are left would end the interval at the estimate: Student's is the least.
    """
    found = ratio_over_documents([0.3] * 9 + [0.7], [1.0] * 10)
    assert found.bounded
    assert found.low < found.value < found.high
    same = ratio_over_documents(np.array([0.1, 0.2, 0.3] * 4), np.array([1.0, 2.0, 3.0] * 4))
    assert (same.low, same.high) == pytest.approx((0.1, 0.1), abs=1e-12)  # all alike: nothing to resample


def test_ratio_of_one_document_is_unbounded() -> None:
    assert ratio_over_documents([2.0], [4.0]) == Estimate(0.5, -math.inf, math.inf, 1)
    assert not ratio_over_documents([2.0], [4.0]).bounded


def test_ratio_is_reproducible_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    num, den = np.arange(1.0, 30.0), np.full(29, 3.0)
    whole = ratio_over_documents(num, den, seed=3)
    assert whole == ratio_over_documents(num, den, seed=3)
    assert whole != ratio_over_documents(num, den, seed=4)
    monkeypatch.setattr("harness.stats.CHUNK", 100)
    assert ratio_over_documents(num, den, seed=3) == whole


@pytest.mark.parametrize(
    ("num", "den"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([math.nan, 1.0], [1.0, 1.0])]
)
def test_ratio_refuses(num: list[float], den: list[float]) -> None:
    with pytest.raises(ValueError, match="denominators"):
        ratio_over_documents(num, den)


def test_clustered_share_is_wider_where_clusters_agree() -> None:
    apart = clustered_share([0, 1] * 20, list(range(40)))
    together = clustered_share([0] * 20 + [1] * 20, [i // 5 for i in range(40)])
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_clustered_share_is_wilsons_with_the_effective_n() -> None:
    """By hand: clusters of 4, 4, 4 and 6 with 3, 1, 0 and 5 hits; scipy gives the quantile."""
    sizes, hits = np.array([4, 4, 4, 6]), np.array([3, 1, 0, 5])
    n, p = 18, 0.5
    variance = 4 / 3 * np.sum((hits - p * sizes) ** 2) / n**2
    effective, t = n * (p * (1 - p) / n) / variance, oracle.t.ppf(0.975, 3)
    # Wilson: the shares q with |p - q| = t sqrt(q (1 - q) / effective)
    low, high = sorted(np.roots([1 + t**2 / effective, -2 * p - t**2 / effective, p**2]))
    successes = [i < h for h, size in zip(hits, sizes, strict=True) for i in range(size)]
    found = clustered_share(successes, np.repeat([*"abcd"], sizes).tolist())
    assert (found.value, found.low, found.high) == pytest.approx((p, low, high), rel=1e-9)


@given(st.lists(st.tuples(bits, st.integers(0, 5)), min_size=1, max_size=60))
def test_clustered_share_is_never_narrower_than_wilsons(cases: list[tuple[int, int]]) -> None:
    successes, clusters = zip(*cases, strict=True)
    found, floor = clustered_share(successes, clusters), share(sum(successes), len(successes))
    assert found.low <= floor.low + 1e-12
    assert found.high >= floor.high - 1e-12
    if len(set(clusters)) == 1:
        assert found == floor


def test_clustered_share_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        clustered_share([0.5], [1])
    with pytest.raises(ValueError, match="clusters"):
        clustered_share([1, 0], [1])


def test_recovery_of_the_papers_table_1() -> None:
    # GPQA-Diamond from exact counts: (115 - 97) / (117 - 97)
    base, adapter, full = ([1] * k + [0] * (198 - k) for k in (97, 115, 117))
    found = recovery(base, adapter, full)
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(0.9)


def test_recovery_without_a_gap_is_undefined() -> None:
    found = recovery([0, 1], [1, 1], [1, 0])
    assert isinstance(found, Undefined)
    assert "no gap" in found.reason


def test_recovery_of_an_uncertain_gap_is_unbounded() -> None:
    base, full = [0] * 15 + [1] * 15, [0] * 14 + [1] * 16
    found = recovery(base, full, full)
    assert isinstance(found, Undefined)
    assert "unbounded: the gap is not distinguishable from 0 (n=30)" in found.reason
    assert isinstance(recovery([0], [1], [1]), Undefined)  # one item bounds nothing


def test_recovery_is_not_certain_where_two_models_agree_on_every_item() -> None:
    full = [1] * 28 + [0] * 2
    found = recovery([1] * 6 + [0] * 24, full, full)
    assert isinstance(found, Estimate)
    assert found.value == 1.0
    assert found.low < 0.95
    assert found.high > 1.05


@settings(max_examples=50)
@given(st.lists(st.tuples(bits, bits, bits), min_size=2, max_size=40))
def test_recovery_interval_holds_its_estimate_and_ignores_order(rows: list[tuple[int, int, int]]) -> None:
    found = recovery(*zip(*rows, strict=True))
    again = recovery(*zip(*reversed(rows), strict=True))
    if isinstance(found, Undefined):
        assert isinstance(again, Undefined)
        assert "unbounded" in found.reason or sum(r[0] for r in rows) == sum(r[2] for r in rows)
    else:
        assert isinstance(again, Estimate)
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx(again.value)


def test_pseudo_items_are_the_eight_patterns() -> None:
    # what _fieller adds in closed form, counted out
    patterns = list(itertools.product((0, 1), repeat=3))
    gained = [a - b for b, a, f in patterns]
    gap = [f - b for b, a, f in patterns]
    assert sum(gained) == sum(gap) == 0
    assert np.mean(np.square(gained)) == np.mean(np.square(gap)) == 0.5
    assert np.mean(np.multiply(gained, gap)) == 0.25


def textbook_fieller(top: np.ndarray, bottom: np.ndarray, quantile: float) -> tuple[float, float]:
    """The ratios r of which a paired t-test does not reject mean(top - r bottom) = 0, found by scanning."""

    def excess(r: float) -> float:
        d = top - r * bottom
        return abs(d.mean()) - quantile * d.std(ddof=1) / math.sqrt(len(d))

    estimate = top.mean() / bottom.mean()
    return optimize.brentq(excess, estimate - 50, estimate), optimize.brentq(excess, estimate, estimate + 50)


@pytest.mark.parametrize("repeats", [1, 2])
def test_recovery_interval_is_fiellers_with_two_more_items(repeats: int) -> None:
    """At n = 10 and 20, counted out: quarters of each pattern are two pseudo-items; Student's degrees are of the items.

    A variance over n instead of n - 1 moves the bounds by 2 to 6 % here; 1e-9 is rounding.
    """
    base, adapter, full = (np.repeat(v, repeats).astype(float) for v in (
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]))  # fmt: skip
    patterns = np.array(list(itertools.product((0, 1), repeat=3)), dtype=float)
    rows = np.concatenate([np.repeat(np.stack([base, adapter, full], 1), 4, axis=0), patterns])
    top, bottom = rows[:, 1] - rows[:, 0], rows[:, 2] - rows[:, 0]
    # each row stands for a quarter of an item: the quantile's factor makes the mean's error that of n + 2 items
    n, weighted = len(base), len(rows)
    quantile = oracle.t.ppf(0.975, n - 1) * math.sqrt((weighted - 1) / (n + 2 - 1))
    found = recovery(base, adapter, full)
    assert isinstance(found, Estimate)
    assert (found.low, found.high) == pytest.approx(textbook_fieller(top, bottom, quantile), rel=1e-9)
    assert found.n == n


@pytest.mark.parametrize(
    ("rates", "rho", "unbounded"),
    [
        ((0.2333, 0.5, 0.6), 0.6, (0.02, 0.07)),  # the paper's AIME24
        ((0.49, 0.58, 0.59), 0.6, (0.7, 0.95)),  # its GPQA-Diamond: hardly a gap
        ((0.2, 0.98, 1.0), 0.0, (0.0, 0.01)),  # the ceiling, where a plain bootstrap covers 47 %
        ((0.05, 0.9, 0.95), 0.95, (0.0, 0.01)),  # near it, strongly paired: 80 %
        ((0.3, 0.1, 0.9), 0.95, (0.0, 0.01)),  # an adapter that harms
    ],
)
def test_recovery_interval_covers(
    rates: tuple[float, float, float], rho: float, unbounded: tuple[float, float]
) -> None:
    """Coverage at n = 30 of the intervals that are given, and how often none is, apart.

    Where nearly all draws have an interval it holds the truth 93 % of the time at least: 1000 draws have a standard
    error of 0.7 % at 95 %. Fieller's 95 % is of all draws, an unbounded interval holding everything; where the gap is
    hardly there, the few that are given were drawn with too large a gap, and 80 % is what can be asked of them.
    """
    rng = np.random.default_rng(5)
    thresholds = oracle.norm.ppf(rates)
    truth = (rates[1] - rates[0]) / (rates[2] - rates[0])
    covered = given = 0
    for _ in range(1000):
        ability = math.sqrt(rho) * rng.standard_normal((30, 1)) + math.sqrt(1 - rho) * rng.standard_normal((30, 3))
        found = recovery(*(ability < thresholds).T.astype(float))
        if isinstance(found, Estimate):
            given += 1
            covered += found.low - 1e-12 <= truth <= found.high + 1e-12
    assert unbounded[0] <= 1 - given / 1000 <= unbounded[1]
    assert covered / given >= (0.93 if unbounded[0] < 0.5 else 0.8), given


def test_ratio_over_many_is_the_bootstrap_of_many():
    rng = np.random.default_rng(5)
    weights = rng.gamma(0.5, size=5_000)
    inside = weights * (rng.random(5_000) < 0.2)
    fast, slow = ratio_over_many(inside, weights), ratio_over_documents(inside, weights)
    assert fast.value == slow.value
    # a bound from 2,000 resamples has a standard error of 6 % of the half width; with 5,000 cases both are normal
    half = slow.high - slow.value
    assert fast.low == pytest.approx(slow.low, abs=0.2 * half)
    assert fast.high == pytest.approx(slow.high, abs=0.2 * half)


def test_ratio_over_many_of_one_class_is_certain_and_of_one_case_unbounded():
    assert ratio_over_many([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == Estimate(1.0, 1.0, 1.0, 3)
    assert not ratio_over_many([1.0], [2.0]).bounded
    with pytest.raises(ValueError, match="more than 0"):
        ratio_over_many([0.0, 0.0], [0.0, 0.0])


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_paired_t_is_scipys(n: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    assert paired_t(a, b) == pytest.approx(oracle.ttest_rel(a, b).pvalue, abs=1e-10)


def test_paired_t_of_too_little() -> None:
    assert isinstance(paired_t([1.0], [2.0]), Undefined)
    assert paired_t([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_t([1.0, 2.0], [2.0, 3.0]) == 0.0


def test_recovery_of_losses_is_fiellers_and_covers() -> None:
    """Its bounds r are where the paired t-test of (base - adapter) - r (base - full) is just significant at 5 %."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        base = 3 + 0.5 * rng.normal(size=12)
        gap = 0.4 + 0.1 * rng.normal(size=12)
        adapter, full = base - 0.6 * gap + 0.05 * rng.normal(size=12), base - gap
        found = recovery_of_losses(base, adapter, full)
        assert isinstance(found, Estimate)
        assert found.value == pytest.approx((base - adapter).mean() / (base - full).mean())
        for bound in (found.low, found.high):
            assert oracle.ttest_1samp(base - adapter - bound * (base - full), 0).pvalue == pytest.approx(0.05, rel=1e-6)
        covered += found.low <= 0.6 <= found.high
    assert covered / 400 > 0.92  # 95 % less three standard errors of 1.1 %


def test_recovery_of_losses_without_a_clear_gap() -> None:
    losses = [2.0, 3.0, 4.0]
    assert isinstance(recovery_of_losses(losses, [1.0, 2.0, 3.0], losses), Undefined)
    unclear = recovery_of_losses(losses, [1.9, 3.1, 3.9], [2.5, 2.0, 4.1])
    assert isinstance(unclear, Undefined)
    assert "not distinguishable" in unclear.reason
