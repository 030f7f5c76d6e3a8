"""Numbers over training seeds: mean and spread between seeds, agreement of rankings, and which conclusions hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from harness import stats
from harness.records.base import Estimate
from harness.reports.common.differences import mean_difference

FEWEST = 3
"""Runs below which nothing is resolved: one degree of freedom, and which thing leads is chosen from the same runs."""

RULE = (
    f"A conclusion holds where the difference that decides is above 0 in every run, and the whole interval over at "
    f"least {FEWEST} runs is above 0, too; else it is not resolved. A difference that one run of several shows is not."
)
"""The rule of `verdict` in words, for the legend."""


def between_seeds(values: Sequence[float]) -> tuple[Estimate, float | None]:
    """Mean with Student's 95 % interval over seeds, and the standard deviation between them (n - 1).

    Unbounded for one value, or where nothing varies but the last bits; one value has no deviation.
    """
    x = np.asarray(values, dtype=np.float64)
    if np.ptp(x) <= 1e-12 * np.abs(x).max():
        return Estimate(float(x[0]), -math.inf, math.inf), 0.0 if len(x) > 1 else None
    return mean_difference(x).difference, float(x.std(ddof=1))


def rank_agreement(runs: Sequence[Mapping[str, float]]) -> tuple[Estimate, tuple[float, ...]] | None:
    """Mean Spearman correlation over all pairs of runs, and each run's mean correlation with the others.

    The pairs are not independent: the interval is the jackknife over runs of a U-statistic of two arguments (Arvesen
    1969, Ann. Math. Stat. 40), unbounded for two runs. None where a pair has no correlation, or there is no pair.

    Args:
        runs: of each run, name -> number; names that all runs have are ranked.
    """
    names = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    n = len(runs)
    if n < 2 or len(names) < 3:
        return None
    correlations = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        rho = stats.spearman([runs[i][x] for x in names], [runs[j][x] for x in names])
        if isinstance(rho, stats.Undefined):
            return None
        correlations[i, j] = correlations[j, i] = rho
    of_run = correlations.sum(1) / (n - 1)
    mean = float(of_run.mean())
    each = tuple(float(x) for x in of_run)
    if n == 2:
        return Estimate(mean, -math.inf, math.inf), each
    without = (n * mean - 2 * of_run) / (n - 2)
    spread, _ = between_seeds(list(n * mean - (n - 1) * without))
    low, high = (max(spread.low, -1.0), min(spread.high, 1.0)) if spread.bounded else (-math.inf, math.inf)
    return Estimate(mean, low, high), each


def verdict(differences: Sequence[float], n_runs: int) -> tuple[bool, str]:
    """Whether a conclusion is resolved, and the sentence; by `RULE`.

    Args:
        differences: the number that must be above 0, of each run that has it.
        n_runs: all runs.
    """
    n, holds, opposite = len(differences), sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    mean, _ = between_seeds(differences)
    lacking = f" ({n_runs - n} of {n_runs} runs have no such number)" if n < n_runs else ""
    if n < n_runs or n not in (holds, opposite):
        return False, f"in {holds} of {n}: not resolved{lacking}"
    if n >= FEWEST and mean.low > 0:
        return True, f"holds in all {n}"
    if n >= FEWEST and mean.high < 0:
        return True, f"in none of {n}: the opposite holds"
    why = "too few runs" if n < FEWEST else "the interval holds 0"
    return False, f"in {'all' if holds else 'none'} of {n}, {why}: not resolved"
