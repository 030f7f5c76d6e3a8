"""Intervals and tests for what the reports print: pure numerics, no torch.

Scores of the same benchmark items by two or three models are paired, so everything here that compares models resamples
or counts items, not models. Numbers pooled over tokens (KL, FVU) are resampled by document: neighbouring tokens are not
independent.

Every report comes through here and scipy takes up to a second to import, so the few formulas it would give are written
out; the tests hold each of them against `scipy.stats`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.records.base import Estimate as Estimate

CHUNK = 1 << 20
"""Resampled values held at once by a bootstrap."""

FEW_DOCUMENTS = 8
"""Below so many documents resamples repeat too few of them to have a standard error worth dividing by."""

PSEUDO_ITEMS = 2.0
"""Pseudo-items that `recovery` adds to the variance, spread evenly over the eight patterns of right and wrong."""


@dataclass(frozen=True)
class Undefined:
    """A number that does not exist, and why.

    Attributes:
        reason: a clause for people, e.g. `full equals base on these items`.
    """

    reason: str


def ratio_over_documents(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Ratio of sums with a bootstrap-t interval over documents, Student's t at least (below `FEW_DOCUMENTS` alone).

    For a mean over tokens, the numerators are sums over each document's tokens and the denominators its token counts;
    for FVU, the documents' residual and total sums of squares.

    Each resample's error is divided by its own linearised standard error (Efron & Tibshirani 1993, 12.5), so that the
    interval leans to the long tail of what few documents hold. Neither side is shorter than Student's, which a sample
    of documents that are nearly all alike would give. Simulated coverage of 95 % on documents of skew 3: 94 %
    with 32 of them, 93 % with 16 (tests/test_coverage.py); less with fewer, or more skewed ones.

    Args:
        numerators: one number per document, shape [document].
        denominators: one non-negative number per document, shape [document]; their sum must be positive.
        seed: of the resampling; the same seed gives the same interval.
        n_resamples: bootstrap resamples.
        level: of the interval, e.g. 0.95.

    Returns:
        sum(numerators) / sum(denominators) and its interval, which stays at 0 and above if no numerator is negative,
        and at 1 and below if none exceeds its denominator; `n` is the documents. One document says nothing about
        other documents: the interval is then unbounded.

    Raises:
        ValueError: the shapes differ, there is no document, a number is not finite, or the denominators are negative
            or add up to 0.
    """
    num, den, estimate, error = _linearised(numerators, denominators)
    n = len(num)
    if n == 1:
        return Estimate(estimate, -math.inf, math.inf, n)
    t = t_quantile(level, n - 1)
    lowest, highest = -t, t
    if n >= FEW_DOCUMENTS and error > 0:
        studentised = _studentised(num - estimate * den, den, seed, n_resamples)
        if len(studentised):
            tails = np.quantile(studentised, [(1 - level) / 2, (1 + level) / 2])
            lowest, highest = min(-t, float(tails[0])), max(t, float(tails[1]))
    low, high = estimate - highest * error, estimate - lowest * error
    low = max(low, 0.0) if (num >= 0).all() else low
    high = min(high, 1.0) if (num <= den).all() else high
    return Estimate(estimate, low, high, n)


def ratio_over_many(numerators: ArrayLike, denominators: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Ratio of sums with the linearised (delta method) interval: for thousands of cases, where bootstraps are slow.

    Raises:
        ValueError: as `ratio_over_documents`.
    """
    num, _, estimate, error = _linearised(numerators, denominators)
    n = len(num)
    if n == 1:
        return Estimate(estimate, -math.inf, math.inf, n)
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    return Estimate(estimate, estimate - half, estimate + half, n)


def share(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share of independent cases with its Wilson interval (without continuity correction).

    The same interval as `scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")`.

    Raises:
        ValueError: n is 0, or successes is not within 0 and n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"share of {successes} in {n}: needs 0 <= successes <= n and n > 0")
    return _wilson(successes / n, n, NormalDist().inv_cdf((1 + level) / 2))


def clustered_share(successes: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """A share of cases that come in clusters (features of the same layer): Wilson's interval at the effective n.

    The effective n is n / max(1, design effect), the design effect being the linearised variance between clusters over
    that of independent cases (Kish 1965); the quantile is Student's with clusters - 1 degrees of freedom (Korn &
    Graubard 1998, Dean & Pavlou 2015). It is never narrower than Wilson's. Simulated coverage of 95 % with 4 clusters
    of 14 to 120 cases: 94 to 99 % (tests/test_coverage.py). A single cluster says nothing about others: the interval
    is then Wilson's, of its cases.

    Args:
        successes: 0 or 1 per case, shape [case].
        clusters: the cluster of each case, as many as cases; None is a cluster like any other.
        level: of the interval.

    Raises:
        ValueError: no case, another number of clusters than of cases, or a success that is not 0 or 1.
    """
    hit = np.asarray(successes, dtype=np.float64)
    if hit.ndim != 1 or len(hit) != len(clusters) or len(hit) == 0:
        raise ValueError(f"{hit.shape} successes and {len(clusters)} clusters: need one of each per case, at least one")
    if not np.isin(hit, (0.0, 1.0)).all():
        raise ValueError("successes must be 0 or 1")
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    n, n_clusters = len(hit), len(index)
    if n_clusters == 1:
        return share(int(hit.sum()), n, level=level)
    of_case = np.array([index[cluster] for cluster in clusters])
    p, independent = float(hit.mean()), float(hit.mean() * (1 - hit.mean()) / n)
    error = _linearised(np.bincount(of_case, weights=hit), np.bincount(of_case))[3]
    design_effect = error**2 / independent if independent > 0 else 1.0
    return _wilson(p, n / max(1.0, design_effect), t_quantile(level, n_clusters - 1))


def recovery(base: ArrayLike, adapter: ArrayLike, full: ArrayLike, *, level: float = 0.95) -> Estimate | Undefined:
    """How much of the gap between base and full the adapter closes: (adapter - base) / (full - base), of mean scores.

    The paper's table 1 with `full` the full fine-tune, its table 2 with `adapter` the ablated adapter and `full` the
    whole adapter: two denominators, so label them.

    The interval is Fieller's for a ratio of paired means, with two pseudo-items spread evenly over the eight patterns
    of right and wrong answers. They leave the estimate alone (their gaps cancel) and keep the variance above zero when
    two models agree on every item. Chosen by simulation at n = 30 binary items over 36 populations (12 triples of
    accuracies, 3 correlations): lowest coverage 95 % with them, 45 % for plain Fieller, 44 % for the paired percentile
    bootstrap, both lowest where adapter and full are near the ceiling. If the gap full - base itself is not
    distinguishable from 0, such data bound nothing, and a point estimate would say more than they do.

    Args:
        base: score per item, 0 to 1, shape [item].
        adapter: the same items in the same order.
        full: the same items in the same order.
        level: of the interval.

    Returns:
        The recovery, 1 being the full gap; it can be negative or exceed 1. Undefined if full equals base on average, or
        if the interval is unbounded.

    Raises:
        ValueError: shapes differ, no items, or a score outside 0 to 1.
    """
    b, a, f = _same_shape(base=base, adapter=adapter, full=full)
    if min(b.min(), a.min(), f.min()) < 0 or max(b.max(), a.max(), f.max()) > 1:
        raise ValueError("scores must be between 0 and 1")
    gained, gap = a - b, f - b
    if math.isclose(gap.sum(), 0.0, abs_tol=1e-9):
        return Undefined(f"there is no gap: it is 0 on average (n={len(f)})")
    interval = _fieller(gained, gap, level)
    if interval is None:
        return Undefined(f"unbounded: the gap is not distinguishable from 0 (n={len(f)})")
    return Estimate(float(gained.sum() / gap.sum()), *interval, len(f))


def recovery_of_losses(
    base: ArrayLike, adapter: ArrayLike, full: ArrayLike, *, level: float = 0.95
) -> Estimate | Undefined:
    """`recovery` of real-valued scores per document: (base - adapter) / (base - full), of mean losses.

    The interval is Fieller's of paired means (Fieller 1954), without pseudo-items: losses vary from document to
    document, so that their variance is no artefact of ties.

    Args:
        base: loss per document, shape [document].
        adapter: the same documents in the same order.
        full: the same documents in the same order.
        level: of the interval.

    Returns:
        The recovery. Undefined if the gap base - full is 0, or not distinguishable from it.

    Raises:
        ValueError: shapes differ, no documents, or a loss that is not finite.
    """
    b, a, f = _same_shape(base=base, adapter=adapter, full=full)
    gained, gap = b - a, b - f
    if math.isclose(gap.sum(), 0.0, abs_tol=1e-9):
        return Undefined(f"there is no gap: it is 0 on average (n={len(f)})")
    interval = _fieller(gained, gap, level, pseudo_items=0.0)
    if interval is None:
        return Undefined(f"unbounded: the gap is not distinguishable from 0 (n={len(f)})")
    return Estimate(float(gained.sum() / gap.sum()), *interval, len(f))


def paired_t(a: ArrayLike, b: ArrayLike) -> float | Undefined:
    """Two-sided p-value of Student's paired t-test, as `scipy.stats.ttest_rel`; Undefined for a single pair.

    1 if no pair differs; 0 if all differ by the same amount.

    Raises:
        ValueError: shapes differ or nothing given.
    """
    first, second = _same_shape(a=a, b=b)
    difference, n = first - second, len(first)
    if n < 2:
        return Undefined("a paired test needs two pairs")
    error = float(difference.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return 1.0 if difference[0] == 0 else 0.0
    return t_p_value(float(difference.mean()) / error, n - 1)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact McNemar p-value for the scores of two models on the same items.

    Counts the items where a is better and those where b is better, and asks how surprising that split is for a fair
    coin. With scores other than 0 and 1 (averages of repeats) this is the exact sign test. 1 if no item differs.

    Raises:
        ValueError: shapes differ or no items.
    """
    first, second = _same_shape(a=a, b=b)
    a_better, b_better = int((first > second).sum()), int((second > first).sum())
    n, k = a_better + b_better, min(a_better, b_better)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / (1 << n))


def spearman(x: ArrayLike, y: ArrayLike) -> float | Undefined:
    """Spearman's rank correlation (ties share their mean rank); Undefined for constants and fewer than 3 pairs.

    Raises:
        ValueError: shapes differ, nothing given, or a number is not finite.
    """
    first, second = _same_shape(x=x, y=y)
    if len(first) < 3:
        return Undefined(f"a rank correlation needs 3 pairs, not {len(first)}")
    rx, ry = _ranks(first), _ranks(second)
    if np.ptp(rx) == 0 or np.ptp(ry) == 0:
        return Undefined("one side is constant")
    return float(np.corrcoef(rx, ry)[0, 1])


def pass_at(n: int, n_right: int, k: int) -> float:
    """Chance that one of k answers is right, from n answers of which `n_right` are: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. (2021), "Evaluating large language models trained on code", equation 1.

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= n_right <= n.
    """
    if not (1 <= k <= n and 0 <= n_right <= n):
        raise ValueError(f"pass@{k} of {n_right} right in {n}: needs 1 <= k <= n and 0 <= n_right <= n")
    return 1.0 - math.comb(n - n_right, k) / math.comb(n, k)


def t_quantile(level: float, df: int) -> float:
    """The t with probability `level` between -t and t, Student's distribution, whole degrees of freedom.

    Abramowitz & Stegun 26.7.3 and 26.7.4 (finite sums), solved by bisection; from 200 degrees on the expansion 26.7.5,
    whose error is then below 1e-8. The same as `scipy.stats.t.ppf((1 + level) / 2, df)`.
    """
    if df > 200:
        z = NormalDist().inv_cdf((1 + level) / 2)
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        return z + first / df + second / df**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / df**3
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_between(middle, df) < level else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def t_p_value(t: float, df: int) -> float:
    """Two-sided p-value of Student's t with whole degrees of freedom: `2 * scipy.stats.t.sf(abs(t), df)` to 1e-12."""
    return max(0.0, 1.0 - _t_between(math.atan(abs(t) / math.sqrt(df)), df))


def _t_between(theta: float, df: int) -> float:
    """Probability between -t and t, where theta = atan(t / sqrt(df))."""
    cos = math.cos(theta)
    term = total = cos if df % 2 else 1.0
    for k in range(3 if df % 2 else 2, df - 1, 2):
        term *= (k - 1) / k * cos * cos
        total += term
    if df == 1:
        return 2 * theta / math.pi
    return 2 / math.pi * (theta + math.sin(theta) * total) if df % 2 else math.sin(theta) * total


def _same_shape(**arrays: ArrayLike) -> list[NDArray[np.float64]]:
    """The arrays as float64 vectors of one non-zero length, all finite."""
    vectors = [np.asarray(array, dtype=np.float64) for array in arrays.values()]
    names = ", ".join(arrays)
    if any(v.ndim != 1 for v in vectors) or len({len(v) for v in vectors}) != 1:
        raise ValueError(f"{names} must be vectors of one length, not {[v.shape for v in vectors]}")
    if len(vectors[0]) == 0:
        raise ValueError(f"{names} are empty")
    if not all(np.isfinite(v).all() for v in vectors):
        raise ValueError(f"{names} must be finite")
    return vectors


def _linearised(
    numerators: ArrayLike, denominators: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Both as vectors, the ratio of their sums, and its standard error, 0 for one document.

    The variance of sum(x) / sum(y) is that of the residuals x - ratio * y over sum(y) squared (Cochran 1977, 6.4).
    """
    num, den = _same_shape(numerators=numerators, denominators=denominators)
    if (den < 0).any() or not den.sum() > 0:
        raise ValueError("denominators must not be negative and must add up to more than 0")
    n, estimate = len(num), float(num.sum() / den.sum())
    residuals = num - estimate * den
    return num, den, estimate, math.sqrt(n / max(n - 1, 1) * float(residuals @ residuals)) / float(den.sum())


def _studentised(
    residuals: NDArray[np.float64], den: NDArray[np.float64], seed: int, n_resamples: int
) -> NDArray[np.float64]:
    """Errors of the ratio over their own standard errors in resamples of the documents.

    Resamples without a spread of their own (one document again and again) or a denominator say nothing and are left
    out.

    Args:
        residuals: of the documents, numerator - ratio * denominator.
        den: their denominators.
        seed: of the resampling.
        n_resamples: resamples drawn.
    """
    generator = np.random.default_rng(seed)
    n = len(den)
    chunk = max(1, CHUNK // n)
    terms = np.stack([residuals, den, residuals**2, residuals * den, den**2], axis=1)
    found = []
    for start in range(0, n_resamples, chunk):
        rows = generator.integers(0, n, size=(min(chunk, n_resamples - start), n))
        places = rows + n * np.arange(len(rows))[:, None]
        times = np.bincount(places.ravel(), minlength=rows.size).reshape(rows.shape)  # [resample, document]
        top, below, top_top, top_below, below_below = (times @ terms).T
        error = np.divide(top, below, out=np.zeros_like(top), where=below > 0)  # this resample's ratio - the ratio
        size = top_top + error**2 * below_below
        spread = size - 2 * error * top_below
        # Of what adds up to 0, 1e-9 of the parts is more than rounding leaves.
        there = (below > 0) & (spread > 1e-9 * size)
        found.append((error * below)[there] / np.sqrt(n / (n - 1) * spread[there]))
    return np.concatenate(found)


def _wilson(p: float, n: float, quantile: float) -> Estimate:
    """All shares that a sample of n with share p is within `quantile` standard errors of."""
    square = quantile * quantile
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    low = 0.0 if p == 0 else max(0.0, centre - half)
    high = 1.0 if p == 1 else min(1.0, centre + half)
    return Estimate(p, low, high)


def _fieller(
    top: NDArray[np.float64], bottom: NDArray[np.float64], level: float, pseudo_items: float = PSEUDO_ITEMS
) -> tuple[float, float] | None:
    """Fieller's interval of mean(top) / mean(bottom), with pseudo-items; None (unbounded) if mean(bottom) may be 0."""
    n = len(top)
    if n < 2:
        return None
    total = n + pseudo_items
    # Over the eight patterns of (base, adapter, full), both gaps have mean 0, mean square 1/2 and mean product 1/4.
    mean_t, mean_b = top.sum() / total, bottom.sum() / total
    var_t = (top @ top + pseudo_items / 2) / total - mean_t**2
    var_b = (bottom @ bottom + pseudo_items / 2) / total - mean_b**2
    cov = (top @ bottom + pseudo_items / 4) / total - mean_t * mean_b
    g = t_quantile(level, n - 1) ** 2 / (total - 1)
    # All ratios r with (mean_t - r mean_b)^2 <= g (var_t - 2 r cov + r^2 var_b): the roots of a r^2 - 2 h r + c.
    a, h, c = mean_b**2 - g * var_b, mean_t * mean_b - g * cov, mean_t**2 - g * var_t
    if a <= 0:
        return None
    root = math.sqrt(max(h * h - a * c, 0.0))
    return float((h - root) / a), float((h + root) / a)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]
