"""Numbers over seeds: intervals, agreement of rankings, and what counts as resolved."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from harness.reports.common.seeds import between_seeds, rank_agreement, verdict


def test_mean_deviation_and_interval_are_students() -> None:
    values = [0.71, 0.84, 0.79, 0.90, 0.66]
    mean, sd = between_seeds(values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (mean.value, mean.low, mean.high) == pytest.approx((np.mean(values), low, high))
    assert sd == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize("values", [[0.4], [0.4, 0.4, 0.4]])
def test_without_spread_there_is_no_interval(values: list[float]) -> None:
    mean, _ = between_seeds(values)
    assert not mean.bounded


def test_rank_agreement_is_the_mean_of_scipys_correlations_over_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=28)
    runs = [{f"c{i}": float(x) for i, x in enumerate(truth + rng.normal(size=28))} for _ in range(5)]
    found = rank_agreement(runs)
    assert found is not None
    mean, each = found
    pairs = itertools.combinations([list(run.values()) for run in runs], 2)
    assert mean.value == pytest.approx(np.mean([scipy.stats.spearmanr(a, b).statistic for a, b in pairs]))
    assert np.mean(each) == pytest.approx(mean.value)
    # the jackknife, by leaving each run out in turn
    left_out = [rank_agreement(runs[:i] + runs[i + 1 :]) for i in range(5)]
    pseudo = [5 * mean.value - 4 * (other[0].value if other else 0.0) for other in left_out]
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(pseudo), scale=scipy.stats.sem(pseudo))
    assert (mean.low, mean.high) == pytest.approx((low, min(high, 1.0)))


def test_rank_agreement_needs_two_runs_and_something_to_rank() -> None:
    assert rank_agreement([{"a": 1.0, "b": 2.0, "c": 3.0}]) is None
    assert rank_agreement([{"a": 1.0}, {"b": 2.0}]) is None
    two = rank_agreement([{"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}])
    assert two is not None
    assert two[0].value == pytest.approx(-1.0)
    assert not two[0].bounded


@pytest.mark.parametrize(
    ("differences", "n_runs", "expected"),
    [
        ([0.2, 0.25, 0.3, 0.22, 0.28], 5, (True, "holds in all 5")),
        ([-0.2, -0.25, -0.3, -0.22, -0.28], 5, (True, "in none of 5: the opposite holds")),
        ([0.9, -0.01, 0.0, 0.01, -0.02], 5, (False, "in 2 of 5: not resolved")),
        ([0.9, 0.01, 0.01, 0.01, 0.01], 5, (False, "in all of 5, the interval holds 0: not resolved")),
        ([-0.12, -0.13, -0.11, -0.12, 0.0], 5, (False, "in 0 of 5: not resolved")),
        ([0.2, 0.2001], 2, (False, "in all of 2, too few runs: not resolved")),
        ([0.2, 0.25, 0.3], 5, (False, "in 3 of 3: not resolved (2 of 5 runs have no such number)")),
    ],
)
def test_only_what_every_run_and_the_interval_over_runs_show_is_resolved(
    differences: list[float], n_runs: int, expected: tuple[bool, str]
) -> None:
    assert verdict(differences, n_runs) == expected


def test_without_a_difference_at_most_a_fortieth_of_the_conclusions_hold() -> None:
    """One side of Student's interval; 2,000 draws of five seeds: 2.5 % give or take 0.7."""
    rng = np.random.default_rng(1)
    held = [verdict(list(rng.normal(size=5)), 5)[1] == "holds in all 5" for _ in range(2000)]
    assert np.mean(held) < 0.025 + 0.01
