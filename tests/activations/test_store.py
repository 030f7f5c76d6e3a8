"""Activation sets on disk: what is written is read back, damage is named, an interruption loses at most a shard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.manifest import parts
from harness.activations.store import ActivationWriter, open_set
from harness.errors import DataError, HarnessError
from harness.model.chat import Document
from harness.testing import tiny_activations


def numbers(n_documents: int = 8, tokens: int = 10, columns: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"d{i}": rng.normal(size=(tokens + i, columns)).astype(np.float32) for i in range(n_documents)}


def document(name: str, n: int) -> Document:
    return Document(name, "x" * n, (1,) * n, tuple((i, i + 1) for i in range(n)), ("think",) * n, (True,) * n)


def writer(folder: Path, **settings: object) -> ActivationWriter:
    values = {"layers": (0,), "projections": (None,), "signed": True, "site": "s", "chat_hash": "0", **settings}
    return ActivationWriter(folder, "test", ("column",), **values)  # type: ignore[arg-type]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    documents = numbers()
    stored = open_set(tiny_activations(tmp_path, documents, shard_tokens=25))
    assert stored.document_ids == tuple(documents)
    assert stored.set.n_tokens == sum(map(len, documents.values()))
    assert len(stored.manifest.shards) > 2
    for read in stored.documents():
        np.testing.assert_array_equal(read.values, documents[read.id])
        assert "".join(stored.tokens(read.id)) == read.text
        assert read.document().ids == tuple(range(len(read.values)))


def test_a_set_opens_by_its_folder_and_by_its_record(tmp_path: Path) -> None:
    record = tiny_activations(tmp_path, numbers())
    assert open_set(tmp_path).set == open_set(record).set == record


def test_halves_are_stored_by_default(tmp_path: Path) -> None:
    store = writer(tmp_path)
    store.append(document("a", 2), np.array([[1.0], [1 / 3]], dtype=np.float32))
    read = open_set(store.finish()).document("a")
    assert read.values.dtype == np.float16


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("value", "cure"), [(np.nan, "another dtype"), (np.inf, "another dtype"), (1e5, "float32")])
def test_a_value_that_cannot_be_stored_names_document_and_column(
    tmp_path: Path, value: float, cure: str, sparse: bool
) -> None:
    store = writer(tmp_path, sparse=sparse)
    with pytest.raises(HarnessError, match=f"'bad', token 1, column 'column'.*{cure}"):
        store.append(document("bad", 2), np.array([[0.0], [value]], dtype=np.float32))


def test_float32_holds_what_float16_does_not(tmp_path: Path) -> None:
    store = writer(tmp_path, dtype="float32")
    store.append(document("a", 1), np.array([[1e5]], dtype=np.float32))
    assert open_set(store.finish()).document("a").values[0, 0] == 1e5


def test_rows_must_be_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected \\(3, 1\\)"):
        writer(tmp_path).append(document("a", 3), np.zeros((2, 1), dtype=np.float32))


def test_a_set_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        writer(tmp_path).finish()


def test_an_unfinished_set_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not complete"):
        open_set(tmp_path)


@pytest.mark.parametrize(("sparse", "part"), [(sparse, p) for sparse in (False, True) for p in parts(sparse=sparse)])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_damaged_shard_file_is_named(tmp_path: Path, sparse: bool, part: str, damage: str) -> None:
    record = tiny_activations(tmp_path, numbers(), shard_tokens=25, sparse=sparse)
    file = tmp_path / ("shard-00001" + parts(sparse=sparse)[part])
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file.name}.*{damage}"):
        list(open_set(record).documents())


def test_a_second_attempt_goes_on_after_the_last_whole_shard_with_the_same_bytes(tmp_path: Path) -> None:
    documents = numbers(12)
    tiny_activations(tmp_path / "whole", documents, shard_tokens=40)
    tiny_activations(tmp_path / "twice", documents, shard_tokens=40)
    for file in [*(tmp_path / "twice").glob("shard-00002*"), *(tmp_path / "twice").glob("shard-00003*")]:
        file.unlink()
    (tmp_path / "twice" / "manifest.json").unlink()
    (tmp_path / "twice" / "shard-00002.values.npy.partial").write_bytes(b"cut")
    (tmp_path / "twice" / "shard-00002.values.npy").write_bytes(b"written, but its shard was not finished")
    tiny_activations(tmp_path / "twice", documents, shard_tokens=40)
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes(), file.name


def test_shards_of_another_set_are_not_continued(tmp_path: Path) -> None:
    tiny_activations(tmp_path, numbers())
    with pytest.raises(DataError, match="another activation set"):
        tiny_activations(tmp_path, numbers(), columns=("a", "b", "c"))


def test_a_split_depends_on_ids_alone_and_leaves_both_sides_something(tmp_path: Path) -> None:
    documents = numbers(60, tokens=1)
    forward = open_set(tiny_activations(tmp_path / "f", documents)).split(0.2)
    backward = open_set(tiny_activations(tmp_path / "b", dict(reversed(documents.items())))).split(0.2)
    assert set(forward.held_out) == set(backward.held_out)
    assert set(forward.train) | set(forward.held_out) == set(documents)
    assert not set(forward.train) & set(forward.held_out)
    assert 4 <= len(forward.held_out) <= 24
    small = open_set(tiny_activations(tmp_path / "s", numbers(2))).split(0.0)
    assert (len(small.train), len(small.held_out)) == (1, 1)
    with pytest.raises(DataError, match="two or more"):
        open_set(tiny_activations(tmp_path / "o", numbers(1))).split()


def test_an_epoch_of_batches_is_every_ranked_token_once_in_another_order(tmp_path: Path) -> None:
    documents = numbers(12)
    stored = open_set(tiny_activations(tmp_path, documents, shard_tokens=40))
    chosen = stored.document_ids[::2]
    expected = np.concatenate([documents[d][1:] for d in chosen])
    batches = list(stored.batches(16, torch.Generator().manual_seed(0), chosen))
    assert all(len(b) == 16 for b in batches[:-1])
    found = torch.cat(batches).numpy()
    assert stored.n_ranked(chosen) == len(found) == len(expected)
    assert not np.array_equal(found, expected)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))
    again = torch.cat(list(stored.batches(16, torch.Generator().manual_seed(0), chosen))).numpy()
    np.testing.assert_array_equal(found, again)


def test_moments_of_ranked_tokens_are_numpys(tmp_path: Path) -> None:
    documents = {k: 1000 + v for k, v in numbers().items()}
    moments = open_set(tiny_activations(tmp_path, documents, shard_tokens=25)).moments()
    everything = np.concatenate([v[1:] for v in documents.values()]).astype(np.float64)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, everything.std(0), rtol=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_set_knows_its_size_and_its_quantiles(tmp_path: Path, sparse: bool, dtype: str) -> None:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.normal(size=(30, 5)) * (rng.random((30, 5)) < 0.7) for i in range(9)}
    record = tiny_activations(tmp_path, documents, sparse=sparse, dtype=dtype, shard_tokens=70)
    stored = np.abs(np.concatenate([d.values[d.ranked] for d in open_set(record).documents()])).astype(float).ravel()
    expected = np.quantile(stored, [p for p, _ in record.quantiles], method="inverted_cdf")
    found = np.array([value for _, value in record.quantiles])
    # float32 is counted by its leading 16 bits: at most 2^-8 high.
    assert (found >= expected).all()
    np.testing.assert_allclose(found, expected, rtol=0 if dtype == "float16" else 2**-8)
    assert record.n_bytes == sum(f.stat().st_size for f in tmp_path.glob("*.npy"))


def test_the_manifest_says_what_the_columns_are(tmp_path: Path) -> None:
    tiny_activations(tmp_path, numbers())
    header = json.loads((tmp_path / "manifest.json").read_text())["header"]
    assert header["columns"] == ["L0.q_proj", "L1.q_proj", "L2.q_proj"]
    assert header["signed"] is True
