"""TopKTracker finds what sorting everything finds: any stream, ties, caps, dense or sparse, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.activations.sparse import SparseRows
from harness.activations.topk import TopK, TopKTracker, _sorted


@dataclass(frozen=True)
class Stream:
    documents: list[np.ndarray]
    ranked: list[np.ndarray]


@st.composite
def streams(draw: st.DrawFn, longest: int = 300) -> Stream:
    """Documents of few distinct values, so that ties are everywhere; -0.0 is among them."""
    seed, columns = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=6))
    levels, dtype = draw(st.integers(1, 40)), draw(st.sampled_from([np.float16, np.float32]))
    dense = draw(st.sampled_from([1.0, 0.3, 0.02]))
    rng = np.random.default_rng(seed)
    return Stream(
        [
            (rng.integers(-levels, levels + 1, (n, columns)) / 2 * (rng.random((n, columns)) < dense)).astype(dtype)
            for n in lengths
        ],
        [rng.random(n) < 0.8 for n in lengths],
    )


def brute_force(stream: Stream, column: int, sign: int, k: int, cap: int | None) -> list[tuple[float, int]]:
    """Sort everything by (value descending, document order, position), then walk down under the cap."""
    rows, start = [], 0
    for d, (values, ranked) in enumerate(zip(stream.documents, stream.ranked, strict=True)):
        for t in np.flatnonzero(ranked):
            v = sign * float(values[t, column])
            if v > 0:
                rows.append((v, d, start + int(t)))
        start += len(values)
    kept: list[tuple[float, int]] = []
    per_document: Counter[int] = Counter()
    for v, d, token in sorted(rows, key=lambda row: (-row[0], row[1], row[2])):
        if len(kept) < k and (cap is None or per_document[d] < cap):
            kept.append((v, token))
            per_document[d] += 1
    return kept


def track(stream: Stream, *, sparse: bool = False, **settings: Any) -> TopK:
    tracker = TopKTracker(stream.documents[0].shape[1], **settings)
    for values, ranked in zip(stream.documents, stream.ranked, strict=True):
        tracker.add_document(SparseRows.of(values, str(values.dtype)) if sparse else values, ranked)
    return tracker.result()


CAPS = st.sampled_from([None, 1, 2, 4])


@settings(max_examples=200, deadline=None)
@given(streams(), st.integers(1, 12), CAPS, st.booleans(), st.booleans())
def test_the_stream_finds_what_brute_force_finds(
    stream: Stream, k: int, cap: int | None, signed: bool, sparse: bool
) -> None:
    top = track(stream, signed=signed, k=k, cap=cap, sparse=sparse)
    signs = (1, -1) if signed else (1,)
    for row in range(len(top.values)):
        column, polarity = divmod(row, len(signs))
        expected = brute_force(stream, column, signs[polarity], k, cap)
        found = [(float(v), int(t)) for v, t in zip(top.values[row], top.tokens[row], strict=True) if t >= 0]
        assert found == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("cap", [1, 2, 4])
def test_a_document_in_which_few_blocks_are_active_loses_none_of_its_highest(dtype: Any, cap: int) -> None:
    """Few active rows of one sign among many of the other: bounds over blocks must not rank these above those."""
    rng = np.random.default_rng(0)
    shapes = [(11 + i, 40) for i in range(20)] + [(200, 40)] * 4
    documents = [np.where(rng.random(s) < 0.1, rng.normal(size=s), 0).astype(dtype) for s in shapes]
    stream = Stream(documents, [np.ones(len(d), dtype=bool) for d in documents])
    top = track(stream, signed=True, k=5, cap=cap)
    for row in range(len(top.values)):
        expected = brute_force(stream, row // 2, 1 - 2 * (row % 2), 5, cap)
        assert [int(t) for t in top.tokens[row] if t >= 0] == [t for _, t in expected]


@settings(max_examples=50, deadline=None)
@given(streams(longest=12), st.integers(1, 5), CAPS)
def test_many_short_documents_overflow_no_buffer(stream: Stream, k: int, cap: int | None) -> None:
    long = Stream(stream.documents * 50, stream.ranked * 50)
    top = track(long, signed=True, k=k, cap=cap)
    for row in range(len(top.values)):
        expected = brute_force(long, row // 2, 1 - 2 * (row % 2), k, cap)
        assert [int(t) for t in top.tokens[row] if t >= 0] == [t for _, t in expected]


def test_candidates_that_fit_no_single_integer_are_sorted_alike() -> None:
    """Far places, wide sets and float32 need more than 63 bits together: the slower sort takes over."""
    rng = np.random.default_rng(0)
    column, place = rng.integers(0, 4, 500), rng.permutation(500)
    bits = rng.integers(1, 9, 500).astype(np.int32)
    quick = _sorted(column, bits, place)
    slow = _sorted(column + 2**20, bits, place * 2**21)
    for a, b in zip(quick, (slow[0] - 2**20, slow[1], slow[2] // 2**21), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(quick[2], place[np.lexsort((place, -bits, column))])


def test_the_callers_array_is_left_alone() -> None:
    values = np.array([[1.0], [-1.0]], dtype=np.float32)
    track(Stream([values], [np.ones(2, dtype=bool)]), signed=True)
    assert values.tolist() == [[1], [-1]]


@settings(max_examples=50, deadline=None)
@given(streams(), st.booleans())
def test_density_sum_and_maximum_are_those_of_the_ranked_tokens(stream: Stream, sparse: bool) -> None:
    top = track(stream, signed=True, k=1, cap=None, sparse=sparse)
    all_values = np.concatenate(stream.documents).astype(np.float64)[np.concatenate(stream.ranked)]
    both = np.stack([all_values, -all_values], axis=2).reshape(-1, 2 * all_values.shape[1]).clip(0)
    assert top.n_tokens == len(all_values)
    np.testing.assert_array_equal(top.n_active, (both > 0).sum(0))
    np.testing.assert_allclose(top.activation_sum, both.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(top.activation_max, both.max(0, initial=0))


def test_sums_of_many_tokens_keep_six_digits() -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float16)
    top = track(Stream([values], [np.ones(len(values), dtype=bool)]), signed=True, k=1, cap=None)
    both = np.stack([values, -values], axis=2).reshape(-1, 6).astype(np.float64).clip(0)
    np.testing.assert_allclose(top.activation_sum, both.sum(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_columns_of_nearly_one_sign_keep_five_digits_of_the_other(dtype: Any) -> None:
    """The negative sum is what the positive exceeds the total by, unless that would be a difference of like numbers."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(5000, 8))).astype(dtype)
    for column in range(8):  # from all positive over nearly all to nearly all negative
        values[: 2**column, column] *= -(0.5**column)
    values[:, 7] *= -1
    top = track(Stream([values], [np.ones(len(values), dtype=bool)]), signed=True, k=1, cap=None)
    both = np.stack([values, -values], axis=2).reshape(-1, 16).astype(np.float64).clip(0)
    np.testing.assert_allclose(top.activation_sum, both.sum(0), rtol=1e-5)


def test_the_state_does_not_grow_with_the_stream() -> None:
    rng = np.random.default_rng(0)
    documents = [rng.normal(size=(1000, 64)).astype(np.float16) for _ in range(4)]
    ranked = np.ones(1000, dtype=bool)

    def peak(repeats: int) -> int:
        tracker = TopKTracker(64, signed=True)
        tracemalloc.start()
        for _ in range(repeats):
            for values in documents:
                tracker.add_document(values, ranked)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    # 24 MB pass through; kept are 0.1 MB of keys, and for the time being one document's candidates of both signs.
    assert peak(48) < 2 * peak(2) < 700_000


def test_a_stream_has_one_dtype() -> None:
    tracker = TopKTracker(1, signed=False)
    tracker.add_document(np.ones((1, 1), dtype=np.float16), np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match="goes on in float32"):
        tracker.add_document(np.ones((1, 1), dtype=np.float32), np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match="not float64"):
        TopKTracker(1, signed=False).add_document(np.ones((1, 1)), np.ones(1, dtype=bool))
