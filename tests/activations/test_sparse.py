"""Sparse sets: the same numbers as a dense set, whichever kind was appended and whichever way they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from harness.activations.exemplars import collect_features
from harness.activations.sparse import SparseRows
from harness.activations.store import StoredActivations, open_set
from harness.errors import DataError
from harness.testing import tiny_activations


def mostly_zero(n_documents: int = 9, columns: int = 40, *, tokens: int = 11) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(tokens + i, columns) for i in range(n_documents)]
    return {f"d{i}": np.where(rng.random(s) < 0.1, rng.normal(size=s), 0) for i, s in enumerate(shapes)}


def both(folder: Path, documents: dict[str, np.ndarray], **writer: object) -> tuple[StoredActivations, ...]:
    dense = tiny_activations(folder / "dense", documents, shard_tokens=30, **writer)
    sparse = tiny_activations(folder / "sparse", documents, shard_tokens=30, sparse=True, **writer)
    return open_set(dense), open_set(sparse)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_and_csr_read_the_same_from_both_kinds(tmp_path: Path, dtype: str) -> None:
    dense, sparse = both(tmp_path, mostly_zero(), dtype=dtype)
    assert (dense.sparse, sparse.sparse) == (False, True)
    assert len(sparse.manifest.shards) > 2
    for a, b in zip(dense.documents(), sparse.documents(), strict=True):
        assert (a.sparse, b.sparse, a.values.dtype, b.values.dtype) == (False, True, dtype, dtype)
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.csr.toarray(), b.csr.toarray())
        np.testing.assert_array_equal(a.csr.toarray(), a.values.astype(np.float32))
        ranked = a.values[a.ranked].astype(np.float32)
        assert not a.ranked.all()
        for document in (a, b):
            columns, values = document.active()
            np.testing.assert_array_equal(columns, np.nonzero(ranked)[1])
            np.testing.assert_array_equal(values, ranked[ranked != 0])
        for column in range(0, 40, 7):
            np.testing.assert_array_equal(a.window(3, 8, column), b.window(3, 8, column))


@pytest.mark.parametrize("sparse", [False, True])
def test_arrays_and_scipy_matrices_are_stored_as_the_same_bytes(tmp_path: Path, sparse: bool) -> None:
    documents = mostly_zero()
    as_csr = {name: csr_array(values.astype(np.float32)) for name, values in documents.items()}
    tiny_activations(tmp_path / "a", documents, shard_tokens=30, sparse=sparse)
    tiny_activations(tmp_path / "b", as_csr, shard_tokens=30, sparse=sparse)
    files = sorted((tmp_path / "a").iterdir())
    assert [f.name for f in files] == sorted(f.name for f in (tmp_path / "b").iterdir())
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_sparse_set_takes_the_room_of_what_is_not_zero(tmp_path: Path) -> None:
    documents = {"d0": np.where(np.arange(5000)[None] % 100 == 0, 1.0, 0.0).repeat(50, axis=0)}
    for name in ("dense", "sparse"):
        tiny_activations(tmp_path / name, documents, sparse=name == "sparse")
    size = {n: sum(f.stat().st_size for f in (tmp_path / n).glob("*.npy")) for n in ("dense", "sparse")}
    assert size["dense"] > 20 * size["sparse"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 7), st.sampled_from(["float16", "float32"]))
def test_rows_survive_cutting_and_joining(seed: int, n: int, width: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    # 1e-9 rounds to 0 in float16: it must not be kept as a value.
    values = rng.choice([0, 0, 1.5, -2, 1e-9], size=(n, width))
    rows = SparseRows.of(values, dtype)
    stored = torch.from_numpy(values).to(getattr(torch, dtype)).numpy()
    np.testing.assert_array_equal(rows.dense(), stored)
    assert np.count_nonzero(rows.values) == len(rows.values) == np.count_nonzero(stored)
    start, stop = sorted(rng.integers(0, n + 1, 2).tolist())
    np.testing.assert_array_equal(rows.rows(start, stop).dense(), stored[start:stop])
    np.testing.assert_array_equal(rows.rows(start, stop).csr().toarray(), stored[start:stop].astype(np.float32))
    np.testing.assert_array_equal(rows.rows(start, stop).column(width - 1), stored[start:stop, -1])
    pieces = [rows.rows(0, start), rows.rows(start, stop), rows.rows(stop, n)]
    np.testing.assert_array_equal(SparseRows.concatenate(pieces).dense(), stored)


def test_unsorted_and_double_entries_of_a_scipy_matrix_are_put_in_order() -> None:
    csr = csr_array((np.array([1.0, 2.0, 3.0]), np.array([4, 0, 4]), np.array([0, 3])), shape=(1, 5))
    rows = SparseRows.of(csr, "float32")
    assert rows.columns.tolist() == [0, 4]
    assert rows.values.tolist() == [2, 4]
    assert csr.indices.tolist() == [4, 0, 4]  # the caller's matrix is its own


def test_exemplars_are_the_same_from_both_kinds(tmp_path: Path) -> None:
    dense, sparse = both(tmp_path, mostly_zero(20))
    found = [list(collect_features(s, k=5, cap=2, sample=4)) for s in (dense, sparse)]
    for a, b in zip(*found, strict=True):
        # Dense sums are formed in float32 tiles.
        assert a.activation_sum == pytest.approx(b.activation_sum, rel=1e-6)
        assert a.model_copy(update={"activation_sum": 0}) == b.model_copy(update={"activation_sum": 0})


def test_batches_and_moments_are_the_same_from_both_kinds(tmp_path: Path) -> None:
    dense, sparse = both(tmp_path, mostly_zero(20))
    for a, b in zip(*(s.batches(16, torch.Generator().manual_seed(0)) for s in (dense, sparse)), strict=True):
        assert torch.equal(a, b)
    np.testing.assert_allclose(dense.moments().mean, sparse.moments().mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dense.moments().std, sparse.moments().std, rtol=1e-9, atol=1e-12)


def test_a_dense_capture_is_not_continued_as_a_sparse_one(tmp_path: Path) -> None:
    tiny_activations(tmp_path, mostly_zero())
    with pytest.raises(DataError, match="another activation set"):
        tiny_activations(tmp_path, mostly_zero(), sparse=True)
