"""What exceeds its control: the difference and its interval, in every report's rows and in words."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from harness import stats
from harness.records.base import Estimate
from harness.reports.common.controls import above_cell, beside_controls, sentence
from harness.reports.dictionaries import _dominates


@dataclass(frozen=True)
class Row:
    source: str
    grade: int
    share: Estimate | None
    control: str | None = None
    above_control: Estimate | None = None


def compared(*rows: Row, absent: Estimate | None = None) -> list[Row]:
    return beside_controls(
        rows, {"a": "r"}, same=lambda r: r.grade, number=lambda r: r.share, absent=lambda source: absent
    )


def test_the_interval_is_newcombes_for_two_shares() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table II, method 10: 56 of 70 against 48 of 80."""
    first, second = compared(Row("a", 0, stats.share(56, 70)), Row("r", 0, stats.share(48, 80)))
    assert first.above_control is not None
    assert first.control == "r"
    found = (first.above_control.value, first.above_control.low, first.above_control.high)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert (second.control, second.above_control) == (None, None), "a control has none itself"
    assert (above_cell(first), above_cell(second)) == ("+20 [5, 33]", "-")


def test_only_rows_of_the_same_place_are_compared() -> None:
    rows = compared(
        Row("a", 0, stats.share(5, 10)), Row("r", 1, stats.share(5, 10)), Row("other", 0, stats.share(1, 2))
    )
    assert [r.above_control for r in rows] == [None] * 3
    (row,) = compared(Row("a", 0, stats.share(5, 10)), absent=stats.share(0, 10))
    assert row.above_control is not None
    assert row.above_control.value == 0.5, "a category that the control does not have"
    (row, _) = compared(Row("a", 0, None), Row("r", 0, stats.share(1, 2)))
    assert row.above_control is None


@pytest.mark.parametrize(("hits", "verdict"), [(90, "above it"), (50, "not told apart"), (10, "below it")])
def test_in_words(hits: int, verdict: str) -> None:
    share = stats.share(hits, 100)
    row, _ = compared(Row("a", 0, share), Row("r", 0, stats.share(50, 100)))
    text = sentence(row, share, "features are monosemantic")
    assert text.startswith(f"a: {hits} % of features are monosemantic, ")
    assert text.endswith(f"points against r: {verdict}.")


def judged(fvu: float, l0: float, activations: str = "x", seed: int = 0, noise: float = 0.01) -> SimpleNamespace:
    """A dictionary over 40 documents of 100 tokens, whose sums vary."""
    n, rng = 40, np.random.default_rng(seed)
    total = np.random.default_rng(9).uniform(50, 150, n)
    rows = zip(total * (fvu + noise * rng.normal(size=n)), total, 100 * (l0 + noise * rng.normal(size=n)), [100] * n,
               strict=True)  # fmt: skip
    return SimpleNamespace(
        activations=activations, l0=l0, fvu=fvu, by_document_json=[[float(v) for v in r] for r in rows]
    )


def test_the_frontier_needs_a_difference_beyond_the_intervals() -> None:
    good, pca = judged(0.07, 4.0256), judged(0.24, 4.0246, seed=1)
    assert _dominates(good, pca), "a thousandth of a latent less is no place on the frontier"
    assert not _dominates(pca, good)
    same = judged(0.0701, 4.02, seed=2)
    assert not _dominates(good, same)
    assert not _dominates(same, good)
    sparser = judged(0.24, 2.0, seed=3)
    assert not _dominates(good, sparser), "worse, and sparser beyond the intervals"
    assert not _dominates(good, judged(0.24, 4.0, activations="y", seed=4)), "of other activations: no rival"
    assert not _dominates(good, good)
