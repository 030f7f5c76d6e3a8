"""Simulated coverage of the intervals for clusters and for documents: they hold the truth as often as they say.

4,000 draws have a standard error of 0.35 % at 95 % and 0.5 % at 90 %. The floors are 93 % and 90 % less two of them,
so that an interval that keeps its floor fails once in forty changes of the seed at most, and one a percent below it
fails nearly always.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats import clustered_share, ratio_over_documents

pytestmark = pytest.mark.slow

N_DRAWS = 4000
FLOOR_93, FLOOR_90 = 0.922, 0.892


@pytest.mark.parametrize("p", [0.5, 0.2])
@pytest.mark.parametrize(("n_clusters", "size"), [(4, 14), (4, 120), (28, 14)])
@pytest.mark.parametrize("correlation", [0.0, 0.1])
def test_clustered_share_covers(n_clusters: int, size: int, correlation: float, p: float) -> None:
    """Beta-binomial clusters: their own shares have variance p (1 - p) times the intraclass correlation."""
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(n_clusters), size).tolist()
    covered = 0
    for _ in range(N_DRAWS):
        own = np.full(n_clusters, p)
        if correlation:
            total = 1 / correlation - 1
            own = rng.beta(p * total, (1 - p) * total, n_clusters)
        found = clustered_share(rng.random(n_clusters * size) < np.repeat(own, size), clusters)
        covered += found.low <= p <= found.high
    assert covered / N_DRAWS >= FLOOR_93


@pytest.mark.parametrize(("n_documents", "floor"), [(32, FLOOR_93), (16, FLOOR_90)])
@pytest.mark.parametrize("tokens", [(300, 301), (100, 500)])
def test_ratio_over_documents_covers_skewed_documents(n_documents: int, floor: float, tokens: tuple[int, int]) -> None:
    """A document's KL per token is lognormal with skew 3; its length is fixed, or within these bounds."""
    sigma = 0.7156  # (exp(s^2) + 2) sqrt(exp(s^2) - 1) = 3
    rng = np.random.default_rng(8)
    truth = float(np.exp(sigma**2 / 2))
    covered = 0
    for draw in range(N_DRAWS):
        lengths = rng.integers(*tokens, n_documents)
        sums = rng.lognormal(0, sigma, n_documents) * lengths
        found = ratio_over_documents(sums, lengths, seed=draw, n_resamples=1000)  # half, for time: the same coverage
        covered += found.low <= truth <= found.high
    assert covered / N_DRAWS >= floor
