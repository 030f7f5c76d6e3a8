"""Differences with 95 % intervals: of two models on the same items, of two independent estimates, of two groups."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from harness.stats import Estimate, t_p_value, t_quantile

_Z = 1.959963984540054


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Mean of a - b over the same items, scores between 0 and 1.

    Bonett and Price's interval for paired proportions (2012, Br. J. Math. Stat. Psychol. 65): two pseudo-items, one won
    by either side, keep it honest where few items differ. Averages of repeats go through the same formula.

    Raises:
        ValueError: not two vectors of one length above 0.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"a and b must be vectors of one length, not {x.shape} and {y.shape}")
    d = x - y
    total = len(d) + 2
    centre = float(d.sum()) / total
    half = _Z * math.sqrt(((float(d @ d) + 2) / total - centre**2) / total)
    mean = float(d.mean())
    return Estimate(mean, max(min(centre - half, mean), -1.0), min(max(centre + half, mean), 1.0))


def independent_difference(a: Estimate, b: Estimate) -> Estimate:
    """Difference of two estimates, from their own intervals (MOVER; Zou and Donner 2008), which need not be symmetric.

    It takes them as independent; where they are positively correlated (the same documents), it is too wide.
    """
    d = a.value - b.value
    low = d - math.hypot(a.value - a.low, b.high - b.value)
    high = d + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(d, low, high)


class Tested(NamedTuple):
    """A difference and the two-sided p-value of its being 0."""

    difference: Estimate
    p_value: float


def group_difference(a: ArrayLike, b: ArrayLike) -> Tested:
    """Mean of a minus mean of b, of two groups of independent values (Welch's test).

    Unbounded, with a p-value of 1, where a group has fewer than two values, or nothing varies.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    d = float(x.mean() - y.mean())
    if len(x) < 2 or len(y) < 2:
        return Tested(Estimate(d, -math.inf, math.inf), 1.0)
    u, v = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    df = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1)) if u + v else 1.0
    return _student(d, math.sqrt(u + v), max(int(df), 1))


def mean_difference(differences: ArrayLike) -> Tested:
    """Mean of independent differences (Student's test); unbounded for fewer than two, or where nothing varies."""
    x = np.asarray(differences, dtype=np.float64)
    error = float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return _student(float(x.mean()), error, len(x) - 1)


def _student(d: float, error: float, df: int) -> Tested:
    if error == 0:
        return Tested(Estimate(d, -math.inf, math.inf), 1.0)
    half = t_quantile(0.95, df) * error
    return Tested(Estimate(d, d - half, d + half), t_p_value(d / error, df))
