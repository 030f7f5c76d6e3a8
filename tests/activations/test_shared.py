"""Which features two adapters share, against correlations and shuffles made one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.activations.shared import best_partners, largest_correlations, rows_of
from harness.activations.store import StoredActivations, open_set
from harness.contract.progress import SilentProgress
from harness.errors import DataError
from harness.testing import tiny_activations

LENGTHS = (40, 25, 60)


def stored(folder: Path, values: np.ndarray, names: str = "abc") -> StoredActivations:
    """A set of three documents; a first token, which never counts, stands before each."""
    parts = [np.concatenate([part[:1] + 9, part]) for part in np.split(values, np.cumsum(LENGTHS)[:-1])]
    return open_set(tiny_activations(folder, dict(zip(names, parts, strict=True))))


@pytest.fixture
def values() -> tuple[np.ndarray, np.ndarray]:
    """Five columns and four: the second set's last is the first's second, negative and noisy; a constant column."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(3, 2, (sum(LENGTHS), 5)), rng.normal(size=(sum(LENGTHS), 4))
    second[:, 3] = -first[:, 1] + 0.3 * rng.normal(size=len(first))
    first[:, 4] = 0.7
    return first, second


def test_best_partners_are_those_of_pearsons_correlation(values: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """float32 sums over 125 tokens keep five digits."""
    first, second = values
    rows = rows_of([stored(tmp_path / "1", first), stored(tmp_path / "2", second)], 10_000)
    one, two = best_partners(
        rows.values[0], rows.values[1], rows.lengths, 19, np.random.default_rng(1), SilentProgress()
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        dense = np.corrcoef(first.T, second.T)[:5, 5:]
    for i in range(4):
        j = int(np.abs(dense[i]).argmax())
        assert one.partner[i] == j
        assert one.correlation[i] == pytest.approx(dense[i, j], abs=1e-5)
    for j in range(4):
        i = int(np.abs(dense[:4, j]).argmax())
        assert (two.partner[j], two.correlation[j]) == (i, pytest.approx(dense[i, j], abs=1e-5))
    assert np.isnan(one.correlation[4]), "a constant column has no correlation"
    assert one.partner[1] == 3
    assert one.correlation[1] < -0.9
    assert one.p_value[1] == 1 / 20
    assert min(one.p_value[[0, 2, 3]]) > 1 / 20, "the rest are independent"


def test_the_null_is_the_largest_of_all_pairs_after_shuffles_within_documents(
    values: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """The same orders, drawn here document by document, and np.corrcoef for each."""
    first, second = values[0][:, :4], values[1]
    rows = rows_of([stored(tmp_path / "1", first), stored(tmp_path / "2", second)], 10_000)
    one, two = best_partners(
        rows.values[0], rows.values[1], rows.lengths, 30, np.random.default_rng(5), SilentProgress()
    )
    rng = np.random.default_rng(5)
    shuffled = []
    for _ in range(30):
        parts = np.split(second, np.cumsum(LENGTHS)[:-1])
        moved = np.concatenate([part[rng.permutation(len(part))] for part in parts])
        shuffled.append(np.abs(np.corrcoef(first.T, moved.T)[:4, 4:]))
    stack = np.stack(shuffled)
    np.testing.assert_allclose(one.shuffled, stack.max(2).mean(0), atol=1e-5)
    np.testing.assert_allclose(two.shuffled, stack.max(1).mean(0), atol=1e-5)
    largest = stack.max((1, 2))
    for best in (one, two):
        expected = [(1 + (largest >= abs(r)).sum()) / 31 for r in best.correlation]
        np.testing.assert_allclose(best.p_value, expected)


def test_what_documents_alone_explain_is_not_shared(tmp_path: Path) -> None:
    """Two columns that know the document and nothing of the token correlate, and so do their shuffles."""
    rng = np.random.default_rng(2)
    document = np.repeat([0.0, 3.0, -4.0], LENGTHS)[:, None]
    first, second = (document + rng.normal(size=(sum(LENGTHS), 1)) for _ in range(2))
    rows = rows_of([stored(tmp_path / "1", first), stored(tmp_path / "2", second)], 10_000)
    one, _ = best_partners(rows.values[0], rows.values[1], rows.lengths, 99, np.random.default_rng(0), SilentProgress())
    assert one.correlation[0] > 0.7
    assert one.shuffled[0] == pytest.approx(one.correlation[0], abs=0.1)
    assert one.p_value[0] > 0.05


def test_random_directions_give_the_best_of_theirs(values: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    first, second = values[0][:, :4], values[1]
    rows = rows_of([stored(tmp_path / "1", first), stored(tmp_path / "2", second)], 10_000)
    expected = np.abs(np.corrcoef(first.T, second.T)[:4, 4:]).max(1)
    np.testing.assert_allclose(largest_correlations(*rows.values), expected, atol=1e-5)


def test_whole_documents_are_read_up_to_a_number_of_tokens_and_of_one_text_only(
    values: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    one, two = stored(tmp_path / "1", values[0]), stored(tmp_path / "2", values[1])
    assert rows_of([one, two], 65).lengths == LENGTHS[:2]
    assert rows_of([one, two], 64).lengths == LENGTHS[:1]
    assert rows_of([one, two], 1).lengths == LENGTHS[:1]
    with pytest.raises(DataError, match="are not of the same text"):
        rows_of([one, stored(tmp_path / "3", values[1], "xbc")], 10_000)
