"""How well two readings agree, and how well ratings tell yes from no: kappa, adjusted Rand, AUC, tests of shares.

Pure numerics. scikit-learn has most of these, takes seconds to import and does not resample; the tests hold each
function against it (or against statsmodels' formula, scipy, brute force).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats import Estimate, Undefined, ratio_over_documents, share, t_quantile

N_RESAMPLES = 2000
"""Bootstrap resamples."""


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]], *, seed: int = 0, level: float = 0.95) -> Estimate | Undefined:
    """Agreement of raters beyond chance: 1 is perfect, 0 is what chance gives; it can be negative.

    Fleiss (1971), with a percentile bootstrap over the cases; where all cases agree, of which a bootstrap makes
    certainty, the lower bound is what Wilson's of the agreement makes it. With two raters this is Scott's pi, which
    differs from Cohen's kappa only in pooling the raters' margins.

    Args:
        ratings: per case, what each rater said; None is a class like any other. As many raters for every case.
        seed: of the resampling.
        level: of the interval.

    Returns:
        The kappa; Undefined where there are fewer than two raters or cases, or all ratings are one class.

    Raises:
        ValueError: cases differ in the number of ratings.
    """
    n_raters = len(ratings[0]) if ratings else 0
    if len(ratings) < 2 or n_raters < 2:
        return Undefined(f"agreement needs two cases and two ratings, not {len(ratings)} and {n_raters}")
    if any(len(case) != n_raters for case in ratings):
        raise ValueError("every case needs as many ratings")
    classes = {c: i for i, c in enumerate(dict.fromkeys(r for case in ratings for r in case))}
    if len(classes) == 1:
        return Undefined("all ratings are the same, so that chance alone would agree")
    counts = np.zeros((len(ratings), len(classes)))
    for row, case in enumerate(ratings):
        for rating in case:
            counts[row, classes[rating]] += 1
    agreement = (counts * (counts - 1)).sum(1) / (n_raters * (n_raters - 1))

    def kappa(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        margins = counts[rows].sum(1) / (rows.shape[1] * n_raters)
        chance = (margins**2).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return cast("NDArray[np.float64]", (agreement[rows].mean(1) - chance) / (1 - chance))

    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return _doubted(_bootstrapped(kappa, len(ratings), seed, level), chance, len(ratings), level)


def cohen_kappa(
    pairs: Sequence[tuple[Hashable, Hashable]], *, seed: int = 0, level: float = 0.95
) -> Estimate | Undefined:
    """Agreement of two raters beyond chance, each with margins of its own: Cohen (1960).

    Args:
        pairs: per case, what the two said; None is a class like any other.
        seed: of the bootstrap over cases, which is `fleiss_kappa`'s.
        level: of the interval.

    Returns:
        The kappa; Undefined with fewer than two cases, or where both always say the same one thing.
    """
    if len(pairs) < 2:
        return Undefined(f"agreement needs two cases, not {len(pairs)}")
    classes = {c: i for i, c in enumerate(dict.fromkeys(r for pair in pairs for r in pair))}
    if len(classes) == 1:
        return Undefined("all ratings are the same, so that chance alone would agree")
    codes = np.array([[classes[a], classes[b]] for a, b in pairs])
    one_hot = np.eye(len(classes))[codes]

    def kappa(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        same = (codes[rows, 0] == codes[rows, 1]).mean(1)
        margins = one_hot[rows].mean(1)
        chance = (margins[:, 0] * margins[:, 1]).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return cast("NDArray[np.float64]", (same - chance) / (1 - chance))

    chance = float((one_hot.mean(0)[0] * one_hot.mean(0)[1]).sum())
    return _doubted(_bootstrapped(kappa, len(pairs), seed, level), chance, len(pairs), level)


def _doubted(kappa: Estimate, chance: float, n: int, level: float) -> Estimate:
    """Where all of n cases agree, the lower bound is (Wilson's of the agreement - chance) / (1 - chance)."""
    if kappa.low < kappa.high:
        return kappa
    return Estimate(kappa.value, (share(n, n, level=level).low - chance) / (1 - chance), kappa.high)


def corrected_share(
    raw: Estimate, n: int, sensitivity: tuple[int, int], specificity: tuple[int, int], *, level: float = 0.95
) -> Estimate | Undefined:
    """A share that an imperfect judge counted, corrected by its errors on cases whose truth is known.

    Rogan and Gladen (1978): (raw + specificity - 1) / (sensitivity + specificity - 1), within 0 and 1. The interval is
    Lang and Reiczigel's (2014), which includes the sampling of all three samples, at the number of independent cases
    that the raw share's interval is worth (cases that come in clusters are worth fewer).

    Args:
        raw: the share that was counted, with its interval.
        n: cases that it was counted over.
        sensitivity: of the cases that are truly so: how many the judge found, and how many there are.
        specificity: of the cases that truly are not: how many the judge refused, and how many there are.
        level: of the interval.

    Returns:
        The corrected share; Undefined where the judge is not clearly better than chance: where the lower bound of
        sensitivity + specificity - 1 (Wilson's intervals combined by MOVER, Zou and Donner 2008) is not above 0.

    Raises:
        ValueError: no cases.
    """
    yes, no = (share(*counts, level=level) for counts in (sensitivity, specificity))
    youden = yes.value + no.value - 1
    if youden - math.hypot(yes.value - yes.low, no.value - no.low) <= 0:
        return Undefined(
            f"not corrected: the judge found {sensitivity[0]} of {sensitivity[1]} planted features that are so and "
            f"refused {specificity[0]} of {specificity[1]} that are not, not clearly better than chance"
        )
    plain = share(round(raw.value * n), n, level=level)
    n_worth = n * min(1.0, (plain.high - plain.low) / (raw.high - raw.low)) ** 2
    z = NormalDist().inv_cdf((1 + level) / 2)
    p, n_p = (raw.value * n_worth + z * z / 2) / (n_worth + z * z), n_worth + z * z
    (se, n_se), (sp, n_sp) = (((hits + 1) / (cases + 2), cases + 2) for hits, cases in (sensitivity, specificity))
    true = (p + sp - 1) / (se + sp - 1)
    from_yes, from_no = true * se * (1 - se) / n_se, (1 - true) * sp * (1 - sp) / n_sp
    centre = true + 2 * z * z * (from_yes - from_no)
    half = z * math.sqrt(p * (1 - p) / n_p + true * from_yes + (1 - true) * from_no) / (se + sp - 1)
    value = min(1.0, max(0.0, (raw.value + no.value - 1) / youden))
    low, high = (min(1.0, max(0.0, bound)) for bound in (centre - half, centre + half))
    return Estimate(value, min(low, value), max(high, value))


def adjusted_rand(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | Undefined:
    """Agreement of two partitions of the same cases, whatever their parts are called: 1 is the same, 0 is chance.

    Hubert and Arabie (1985).

    Raises:
        ValueError: another number of cases.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} cases")
    if len(set(first)) == len(set(second)) == 1:
        return Undefined("both partitions have one part")
    table = np.zeros((len(set(first)), len(set(second))))
    rows, columns = ({c: i for i, c in enumerate(dict.fromkeys(side))} for side in (first, second))
    for a, b in zip(first, second, strict=True):
        table[rows[a], columns[b]] += 1

    def pairs(n: NDArray[np.float64] | float) -> float:
        return float(np.sum(np.asarray(n) * (np.asarray(n) - 1) / 2))

    together, of_first, of_second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    all_pairs = pairs(float(len(first)))
    if all_pairs == 0:
        return Undefined("one case has no pairs")
    expected = of_first * of_second / all_pairs
    largest = (of_first + of_second) / 2
    return (together - expected) / (largest - expected) if largest != expected else 1.0


def auc(labels: ArrayLike, ratings: ArrayLike) -> float | Undefined:
    """Probability that a yes is rated above a no, ties counting half (Mann-Whitney).

    Raises:
        ValueError: another number of ratings than of labels.
    """
    yes, rated = np.asarray(labels, dtype=bool), np.asarray(ratings, dtype=np.float64)
    if yes.shape != rated.shape:
        raise ValueError(f"{yes.shape} labels and {rated.shape} ratings")
    if yes.all() or not yes.any():
        return Undefined("needs cases of both kinds")
    above = rated[yes][:, None] - rated[~yes][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def balanced_accuracy(labels: ArrayLike, said: ArrayLike) -> float | Undefined:
    """Mean of the share of yes that was said yes and the share of no that was said no: 0.5 is chance.

    Raises:
        ValueError: another number of answers than of labels.
    """
    yes, answer = np.asarray(labels, dtype=bool), np.asarray(said, dtype=bool)
    if yes.shape != answer.shape:
        raise ValueError(f"{yes.shape} labels and {answer.shape} answers")
    if yes.all() or not yes.any():
        return Undefined("needs cases of both kinds")
    return float((answer[yes].mean() + (~answer[~yes]).mean()) / 2)


def clustered_correlation(
    clusters: Sequence[Sequence[tuple[float, float]]], *, level: float = 0.95
) -> Estimate | Undefined:
    """Pearson's correlation over all pairs; pairs come in clusters (the tokens of a context), which are independent.

    The interval is of Fisher's z, with the jackknife's standard error over clusters and Student's t: tokens of a
    context resemble each other, so that Fisher's own 1 / sqrt(n - 3) would be too small. It is unbounded with fewer
    than three clusters, and where no cluster changes the correlation.

    Args:
        clusters: per cluster, (predicted, true).
        level: of the interval.

    Returns:
        The correlation; 0 where the predictions are all the same, for they explain nothing; Undefined where the truth
        is constant.
    """
    sums = np.array([_moments(pairs) for pairs in clusters if len(pairs)])
    if not len(sums) or np.ptp([true for pairs in clusters for _, true in pairs]) == 0:
        return Undefined("the feature is as active on every token of these contexts as on any other")
    whole = _correlation(sums.sum(0))
    without = np.array([_correlation(sums.sum(0) - own) for own in sums])
    z = np.arctanh(np.clip(without, -1 + 1e-12, 1 - 1e-12))
    n = len(sums)
    error = float(np.sqrt((n - 1) / n * ((z - z.mean()) ** 2).sum()))
    if n < 3 or error == 0 or abs(whole) > 1 - 1e-9:
        return Estimate(whole, -np.inf, np.inf)
    half = t_quantile(level, n - 1) * error
    return Estimate(whole, math.tanh(math.atanh(whole) - half), math.tanh(math.atanh(whole) + half))


def _moments(pairs: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """n, and the sums of x, y, xx, yy and xy."""
    x, y = np.asarray(pairs, dtype=np.float64).T
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def _correlation(sums: NDArray[np.float64]) -> float:
    """Of the sums of `_moments`; 0 where one side is constant."""
    n, x, y, xx, yy, xy = sums
    spread = (n * xx - x * x) * (n * yy - y * y)
    return float(np.clip((n * xy - x * y) / math.sqrt(spread), -1, 1)) if spread > 1e-12 * n * n * xx * n * yy else 0.0


def clustered_mean(values: ArrayLike, clusters: Sequence[Hashable], *, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean of cases that come in clusters (features of the same layer): a ratio over the clusters' sums and sizes.

    Of a single cluster the cases are what is resampled: it says nothing about other clusters. One case has no interval.

    Raises:
        ValueError: no case, or another number of clusters.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or len(given) != len(clusters) or not len(given):
        raise ValueError(f"{given.shape} values and {len(clusters)} clusters: need one of each per case, at least one")
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    of_case = [index[c] for c in clusters] if len(index) > 1 else list(range(len(given)))
    sums, sizes = np.bincount(of_case, weights=given), np.bincount(of_case)
    return ratio_over_documents(sums, sizes, seed=seed, level=level)


def stratified_permutation(
    first: Sequence[bool],
    second: Sequence[bool],
    first_strata: Sequence[Hashable],
    second_strata: Sequence[Hashable],
) -> float:
    """Two-sided p-value for two shares being equal, cases being exchangeable within a stratum (a layer). Exact.

    Labels are permuted within strata: the hits that fall to the first group are hypergeometric in each, so that their
    sum over all permutations is the convolution of these distributions. Strata with cases of one group only say nothing
    about the difference and are left as they are. The p-value is the probability of a sum at least as far from its
    expectation as the one observed; it is never 0, as the data themselves are one of the permutations.

    Args:
        first: whether each case of the first group is a hit.
        second: of the second group.
        first_strata: the stratum of each case of the first group.
        second_strata: of the second group.

    Raises:
        ValueError: an empty group, or another number of strata than of cases.
    """
    if not len(first) or not len(second):
        raise ValueError("a test of two shares needs cases in both groups")
    cases: dict[Hashable, list[int]] = {}  # [first's hits, first's misses, second's hits, second's misses]
    for group, hits, strata in ((0, first, first_strata), (2, second, second_strata)):
        for hit, stratum in zip(hits, strata, strict=True):
            cases.setdefault(stratum, [0, 0, 0, 0])[group + (not hit)] += 1
    observed, expected, lowest = 0, 0.0, 0
    probability = np.ones(1)  # of lowest, lowest + 1, ... hits in the first group
    for a, b, c, d in cases.values():
        n_own, n_hits, total = a + b, a + c, a + b + c + d
        observed += a
        expected += n_own * n_hits / total
        least, masses = _hypergeometric(n_hits, total - n_hits, n_own)
        lowest += least
        probability = np.convolve(probability, masses)
    distance = np.abs(lowest + np.arange(len(probability)) - expected)
    return float(min(1.0, probability[distance >= abs(observed - expected) - 1e-9].sum()))


def _hypergeometric(n_hits: int, n_misses: int, n_drawn: int) -> tuple[int, NDArray[np.float64]]:
    """The fewest hits among the drawn, and the probabilities of that many, one more, ... up to the most."""
    low, high = max(0, n_drawn - n_misses), min(n_hits, n_drawn)
    k = np.arange(low, high)
    # ratio of neighbours; logarithms, and the largest set to 1, keep large strata from under- and overflowing
    steps = np.log((n_hits - k) * (n_drawn - k)) - np.log((k + 1.0) * (n_misses - n_drawn + k + 1.0))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    masses = np.exp(logs - logs.max())
    return low, masses / masses.sum()


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of them, in the same order: Holm (1979), controls the family-wise error."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(p_values) else scaled
    return [float(p) for p in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of them, in the same order: Benjamini and Hochberg (1995).

    Controls the false discovery rate: of what is called found at a level, that share is expected to be false at most.
    """
    order = np.argsort(p_values, kind="stable")[::-1]
    n = len(p_values)
    scaled = np.asarray(p_values, dtype=np.float64)[order] * n / np.arange(n, 0, -1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate(scaled)
    return [float(p) for p in adjusted]


def _bootstrapped(statistic: object, n: int, seed: int, level: float) -> Estimate:
    """A statistic of rows [resample, case] on all cases in order, and its percentile bootstrap."""
    assert callable(statistic)
    estimate = float(statistic(np.arange(n)[None, :])[0])
    rng = np.random.default_rng(seed)
    per_chunk = max(1, (1 << 20) // n)
    values = np.concatenate(
        [
            statistic(rng.integers(0, n, size=(min(per_chunk, N_RESAMPLES - start), n)))
            for start in range(0, N_RESAMPLES, per_chunk)
        ]
    )
    values = values[np.isfinite(values)]  # a resample of one class only has no kappa
    if not len(values):
        return Estimate(estimate, -np.inf, np.inf)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(estimate, float(min(low, estimate)), float(max(high, estimate)))


def jackknife(
    statistic: Callable[[Sequence[Any]], float | Undefined], cases: Sequence[Any], *, n_groups: int = 20, seed: int = 0
) -> Estimate | Undefined:
    """A statistic of all cases with the 95 % interval of a delete-a-group jackknife.

    For statistics of pairs of cases (adjusted Rand), which a bootstrap's repeated cases would push up.

    Args:
        statistic: of some of the cases.
        cases: all of them.
        n_groups: groups, each left out once.
        seed: of their drawing.
    """
    whole = statistic(cases)
    if isinstance(whole, Undefined):
        return whole
    order = np.random.default_rng(seed).permutation(len(cases))
    groups = [set(part.tolist()) for part in np.array_split(order, min(n_groups, len(cases)))]
    without = [statistic([c for i, c in enumerate(cases) if i not in group]) for group in groups]
    values = np.array([v for v in without if not isinstance(v, Undefined)])
    if len(values) < 2 or np.ptp(values) == 0:  # no group changes it: the data do not say how much another would
        return Estimate(whole, -np.inf, np.inf)
    half = 1.959964 * float(np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()))
    return Estimate(whole, whole - half, min(1.0, whole + half))
