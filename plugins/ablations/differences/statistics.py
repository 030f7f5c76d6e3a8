"""Sums over tokens with their intervals over documents: shares of the largest tokens, correlations, kinds of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.stats import Estimate, Undefined, ratio_over_documents, spearman, t_p_value, t_quantile

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

TOP = 0.01
"""Share of the tokens that `top_share` calls the largest."""

FEWEST_DOCUMENTS = 4
"""Documents that must hold a kind of token before it is tested."""


def mean_over_tokens(values: Sequence[Float[np.ndarray, " token"]], seed: int) -> Estimate:
    """Mean over all tokens, bootstrap-t over documents.

    Args:
        values: of each document's tokens.
        seed: of the bootstrap.
    """
    return ratio_over_documents([v.sum() for v in values], [len(v) for v in values], seed=seed)


def top_share(values: Sequence[Float[np.ndarray, " token"]], seed: int) -> Estimate | Undefined:
    """Share of the sum that the largest 1 % of all tokens hold (one token at least), bootstrap-t over documents.

    Args:
        values: of each document's tokens, not negative.
        seed: of the bootstrap.
    """
    flat = np.concatenate(values)
    if flat.sum() == 0:
        return Undefined("the two models give the same distributions")
    largest = np.zeros(len(flat), dtype=bool)
    largest[np.argsort(-flat, kind="stable")[: math.ceil(TOP * len(flat))]] = True
    parts = np.split(largest, np.cumsum([len(v) for v in values])[:-1])
    top = [v[part].sum() for v, part in zip(values, parts, strict=True)]
    return ratio_over_documents(top, [v.sum() for v in values], seed=seed)


def mean_correlation(
    first: Sequence[Float[np.ndarray, " token"]], second: Sequence[Float[np.ndarray, " token"]], seed: int
) -> Estimate | Undefined:
    """Spearman's correlation over the tokens of each document, mean over documents; documents without one are left out.

    Args:
        first: of each document's tokens.
        second: of the same tokens.
        seed: of the bootstrap.
    """
    each = [spearman(a, b) for a, b in zip(first, second, strict=True) if len(a)]
    defined = [rho for rho in each if not isinstance(rho, Undefined)]
    if not defined:
        return Undefined("no document has tokens whose KL differs")
    return ratio_over_documents(defined, [1] * len(defined), seed=seed)


def ratio_of_means(
    values: Sequence[Float[np.ndarray, " token"]], inside: Sequence[Bool[np.ndarray, " token"]]
) -> tuple[Estimate, float] | Undefined:
    r"""Mean inside over mean outside with a 95 % interval, and the p-value that it is 1.

    With the document's sums A_k, B_k and tokens a_k, b_k inside and outside, log R = log(A/a) - log(B/b) has the
    linearised variance K / (K - 1) * sum of u_k^2, u_k = A_k / A - a_k / a - B_k / B + b_k / b (Binder 1983), and
    Student's t, with as many degrees of freedom as documents that hold such tokens, less one. Where fewer than
    `FEWEST_DOCUMENTS` do, their spread says nothing.

    Args:
        values: of each document's tokens, not negative.
        inside: which of them are inside.
    """
    sums = np.array([(v[m].sum(), m.sum(), v[~m].sum(), (~m).sum()) for v, m in zip(values, inside, strict=True)])
    total, k = sums.sum(0), len(sums)
    if not total[1]:
        return Undefined("no such token")
    if not total[3]:
        return Undefined("every token is of the kind")
    if not total.all():
        return Undefined("the KL is 0 on one side")
    holding = int((sums[:, 1] > 0).sum())
    if holding < FEWEST_DOCUMENTS:
        return Undefined(f"fewer than {FEWEST_DOCUMENTS} documents hold such tokens")
    log_ratio = math.log(total[0] / total[1]) - math.log(total[2] / total[3])
    u = sums / total @ np.array([1, -1, -1, 1])
    error = math.sqrt(k / (k - 1) * float(u @ u))
    half = t_quantile(0.95, holding - 1) * error
    p_value = t_p_value(log_ratio / error, holding - 1) if error else float(log_ratio == 0)
    value, low, high = (math.exp(x) for x in (log_ratio, log_ratio - half, log_ratio + half))
    return Estimate(value, low, high, holding), p_value


def shuffled_within(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A permutation of the places that moves each to a place of the same label, [place].

    Args:
        labels: [place], such as a document's segments.
        generator: draws it.
    """
    order = np.arange(len(labels))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        order[places] = generator.permutation(places)
    return order
