"""The rivals of the benches are what they are said to be: a ratio against a straw man says nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load(name: str) -> ModuleType:
    """A module of bench/, which is not installed."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parents[1] / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper = load("paper_tracker")


def test_the_papers_tracker_loses_what_its_code_loses() -> None:
    """The trace of its code by hand, k = 3: a new maximum overwrites the one before, and rows lose their order."""
    tracker = paper.PaperTracker(1, 3)
    for value, row in [(5, None), (4, None), (3, None), (2, [5, 3, 4]), (6, [5, 3, 6]), (4.5, [5, 3, 6])]:
        tracker.update(0, np.array([float(value)]), np.array([0]))
        if row is not None:
            assert tracker.values[0].tolist() == row


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_put_right_it_finds_the_highest(seed: int, k: int) -> None:
    """Of codes token by token, and of directions column by column with both signs."""
    x = np.random.default_rng(seed).standard_normal((4, 30, 2)).astype(np.float32)
    x[np.abs(x) < paper.THRESHOLD] = 1.0
    directions, codes = paper.PaperTracker(4, k, corrected=True), paper.PaperTracker(2, k, corrected=True)
    for i, document in enumerate(x):
        directions.add_directions(document, 30 * i)
        codes.add_codes(np.maximum(document, 0), 30 * i)
    flat = x.reshape(120, 2)
    for column in range(2):
        for which, sign in enumerate((1, -1)):
            expected = np.sort((sign * flat[:, column]).clip(0))[-k:]
            np.testing.assert_array_equal(directions.values[2 * column + which], expected)
        np.testing.assert_array_equal(codes.values[column], directions.values[2 * column])
        assert set(codes.places[column]) == set(directions.places[2 * column])


def test_at_equal_work_it_keeps_sums_and_densities_of_what_it_looks_at() -> None:
    x = np.random.default_rng(0).standard_normal((60, 2))
    tracker = paper.PaperTracker(4, 3, summing=True)
    for start in (0, 30):
        tracker.add_directions(x[start : start + 30], start)
    both = np.stack([x, -x], axis=2).reshape(60, 4).astype(np.float32)
    looked_at = both > paper.THRESHOLD
    np.testing.assert_allclose(tracker.sums, (both * looked_at).sum(0), rtol=1e-6)
    np.testing.assert_array_equal(tracker.n_active, looked_at.sum(0))


@pytest.mark.parametrize(("corrected", "lowest", "highest"), [(True, 1.0, 1.0), (False, 0.3, 0.9)])
def test_recall_is_the_share_of_the_highest_that_is_kept(corrected: bool, lowest: float, highest: float) -> None:
    x = np.random.default_rng(0).standard_normal((400, 100))
    tracker = paper.PaperTracker(1, 50, corrected=corrected)
    for i, document in enumerate(x):
        tracker.update(0, document, np.arange(100) + 100 * i)
    assert lowest <= tracker.recall(np.argsort(-x.ravel())[None, :50]) <= highest
