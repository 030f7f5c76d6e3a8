"""StoredActivations: an activation set on disk, read one shard at a time; a document knows its own text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from harness.activations.manifest import Header, Manifest, ShardEntry, capture_again, parts, read_manifest
from harness.activations.parts import trace_id
from harness.activations.sparse import SparseRows, widened
from harness.activations.writer import ActivationWriter
from harness.errors import DataError
from harness.files import reading, sha256_of
from harness.model.chat import Document
from harness.model.traces import held_out_ids
from harness.records import ActivationSet
from harness.records.segments import SEGMENTS

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["ActivationWriter", "Moments", "Split", "StoredActivations", "StoredDocument", "open_set", "token_texts"]

_DTYPES = {"ids": "int32", "offsets": "int32", "segments": "uint8", "ranked": "bool"}
_OPEN_SHARDS = 64
"""Shards kept open: their arrays are memory maps, their texts a few hundred kilobytes each."""


@dataclass(frozen=True)
class StoredDocument:
    """A document's tokens and activations; arrays are read-only views of the shard.

    Attributes:
        id: trace id.
        text: rendered text.
        ids: [token].
        offsets: [token, 2] characters in `text`.
        segments: [token] index into SEGMENTS.
        ranked: bool [token] whether it counts: all that is ranked, summed, counted, fitted and tested. What was written
            counts; the template's tokens, special tokens and the first of a context do not.
        activations: [token, column] as they are stored: dense, or sparse rows. Use `values` or `csr`, which both work
            for either.
    """

    id: str
    text: str
    ids: Int[np.ndarray, " token"]
    offsets: Int[np.ndarray, "token two"]
    segments: np.ndarray
    ranked: np.ndarray
    activations: Float[np.ndarray, "token column"] | SparseRows

    @property
    def sparse(self) -> bool:
        """Whether the set is stored sparse, so that `csr` is the cheap way to read it and `values` the dear one."""
        return isinstance(self.activations, SparseRows)

    @property
    def values(self) -> Float[np.ndarray, "token column"]:
        """All activations, zeros included, in the stored dtype."""
        return self.activations.dense() if isinstance(self.activations, SparseRows) else self.activations

    @property
    def csr(self) -> csr_array:
        """Activations that are not 0, float32, [token, column]."""
        if isinstance(self.activations, SparseRows):
            return self.activations.csr()
        return csr_array(widened(self.activations))

    def active(self) -> tuple[Int[np.ndarray, " value"], Float[np.ndarray, " value"]]:
        """Column and value, float32, of every activation of a ranked token that is not 0."""
        if isinstance(self.activations, SparseRows):
            found = self.activations
            ranked = self.ranked[found.row_of_value()]
            return found.columns[found.span][ranked].astype(np.int64), widened(found.values[found.span][ranked])
        rows = self.activations[self.ranked]
        return np.nonzero(rows)[1], widened(rows[rows != 0])

    def window(self, start: int, stop: int, column: int) -> Float[np.ndarray, " token"]:
        """One column of the tokens start..stop, float32."""
        if isinstance(self.activations, SparseRows):
            return widened(self.activations.rows(start, stop).column(column))
        return widened(self.activations[start:stop, column])

    def document(self) -> Document:
        """The same tokens as the model's side knows them."""
        return Document(
            id=self.id,
            text=self.text,
            ids=tuple(self.ids.tolist()),
            offsets=tuple((a, b) for a, b in self.offsets.tolist()),
            segments=tuple(SEGMENTS[i] for i in self.segments.tolist()),
            ranked=tuple(self.ranked.tolist()),
        )


@dataclass(frozen=True)
class Split:
    """Document ids to train on, and ids held out, both in document order."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (population) per column, float64, and the tokens they are of."""

    mean: Float[np.ndarray, " column"]
    std: Float[np.ndarray, " column"]
    n_tokens: int


@dataclass(frozen=True)
class _Shard:
    entry: ShardEntry
    texts: dict[str, str]
    arrays: dict[str, np.ndarray]
    activations: np.ndarray | SparseRows
    starts: tuple[int, ...]


class StoredActivations:
    """A complete activation set.

    Attributes:
        path: its folder.
        manifest: what it is made of.
        set: its record.
        document_ids: ids in document order.
    """

    def __init__(self, path: Path, manifest: Manifest, *, record: ActivationSet | None = None) -> None:
        self.path, self.manifest = path, manifest
        self.set = record or manifest.activation_set(path)
        self.document_ids = tuple(d for shard in manifest.shards for d, _ in shard.documents)
        self._place = {d: (i, j) for i, shard in enumerate(manifest.shards) for j, (d, _) in enumerate(shard.documents)}
        self._lengths = {d: n for shard in manifest.shards for d, n in shard.documents}
        self._verified: set[int] = set()
        self._shard = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        """A set travels as its record, and is opened again where it arrives."""
        return open_set, (self.set.model_copy(update={"path": self.path.resolve()}),)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names."""
        return self.set.columns

    @property
    def sparse(self) -> bool:
        """Whether shards hold only what is not 0 (see `StoredDocument.sparse`)."""
        return self.manifest.header.sparse

    def n_tokens(self, documents: Collection[str] | None = None) -> int:
        """Tokens of these documents; None is all."""
        return self.set.n_tokens if documents is None else sum(self._lengths[d] for d in documents)

    def n_ranked(self, documents: Collection[str] | None = None) -> int:
        """Ranked tokens of these documents; None is all."""
        return sum(int(d.ranked.sum()) for d in self.documents(documents))

    def document(self, document_id: str) -> StoredDocument:
        """One document.

        Raises:
            DataError: no such document, or its shard is damaged.
        """
        if document_id not in self._place:
            raise DataError(f"{self.path} holds no document {document_id!r}")
        shard, index = self._place[document_id]
        return _view(self._shard(shard), index)

    def documents(self, ids: Collection[str] | None = None) -> Iterator[StoredDocument]:
        """All documents, or those with these ids, in document order."""
        chosen = None if ids is None else set(ids)
        for i, entry in enumerate(self.manifest.shards):
            wanted = [j for j, (d, _) in enumerate(entry.documents) if chosen is None or d in chosen]
            if wanted:
                shard = self._shard(i)
                yield from (_view(shard, j) for j in wanted)

    def tokens(self, document_id: str) -> tuple[str, ...]:
        """A document's tokens as text; together they are its text (see `token_texts`)."""
        document = self.document(document_id)
        return token_texts(document, 0, len(document.ids))

    def split(self, held_out: float = 0.1, seed: int = 0) -> Split:
        """Split documents by a hash of their id: the same for every set of the same documents, whatever their order.

        Learners and scores use the defaults, so that every dictionary is judged on the same unseen documents. Parts of
        one trace stay together. At least one trace is held out and one is left to train on.

        Raises:
            DataError: fewer than two documents.
        """
        traces = set(map(trace_id, self.document_ids))
        if len(traces) < 2:
            raise DataError(f"{self.path} holds {len(traces)} document; a held-out split needs two or more")
        out = held_out_ids(traces, held_out, seed)
        return Split(
            train=tuple(d for d in self.document_ids if trace_id(d) not in out),
            held_out=tuple(d for d in self.document_ids if trace_id(d) in out),
        )

    def batches(
        self, size: int, generator: torch.Generator, documents: Collection[str] | None = None
    ) -> Iterator[Float[torch.Tensor, "batch column"]]:
        """One epoch of the ranked tokens in random order, float32. The last batch may be shorter.

        Shards come in random order; half of what is in the buffer is carried into the next shard, so that a batch mixes
        documents of several shards. At most two shards are in memory.
        """
        chosen = set(self.document_ids if documents is None else documents)
        with_any = [i for i, shard in enumerate(self.manifest.shards) if any(d in chosen for d, _ in shard.documents)]
        order = torch.randperm(len(with_any), generator=generator).tolist()
        left: torch.Tensor | csr_array | None = None
        for at, index in enumerate(order):
            rows = _stack(left, self._tokens_of(with_any[index], chosen))
            rows = rows[torch.randperm(rows.shape[0], generator=generator).numpy()]
            last = at == len(order) - 1
            stop = rows.shape[0] if last else rows.shape[0] // 2 // size * size
            for start in range(0, stop, size):
                batch = rows[start : min(start + size, stop)]
                yield batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch.toarray())
            left = rows[stop:]

    def moments(self, documents: Collection[str] | None = None) -> Moments:
        """Mean and standard deviation per column over the ranked tokens of these documents (None is all).

        One shard is in memory (Chan's pairwise update).
        """
        n, mean, m2 = 0, np.zeros(len(self.columns)), np.zeros(len(self.columns))
        for document in self.documents(documents):
            tokens, average, squares = _sums(document)
            if not tokens:
                continue
            delta = average - mean
            total = n + tokens
            m2 += squares + delta**2 * n * tokens / total
            mean += delta * tokens / total
            n = total
        return Moments(mean=mean, std=np.sqrt(m2 / max(n, 1)), n_tokens=n)

    def _tokens_of(self, index: int, documents: Collection[str]) -> torch.Tensor | csr_array:
        shard = self._shard(index)
        keep = np.concatenate([np.full(n, d in documents) for d, n in shard.entry.documents]) & shard.arrays["ranked"]
        if isinstance(shard.activations, SparseRows):
            return shard.activations.csr()[keep]
        return torch.from_numpy(shard.activations[keep]).float()

    def _open_shard(self, index: int) -> _Shard:
        entry = self.manifest.shards[index]
        with reading(self.path / entry.name, capture_again(self.path)):
            if index not in self._verified:
                self._verify(entry)
            shard = self._read_shard(entry)
            if index not in self._verified:
                _refuse_strangers(shard, self.manifest.header)
        self._verified.add(index)
        return shard

    def _read_shard(self, entry: ShardEntry) -> _Shard:
        arrays = {
            # A plain view of the map: slicing np.memmap itself is ten times slower.
            part: np.asarray(np.load(self.path / (entry.name + ending), mmap_mode="r"))
            for part, ending in parts(sparse=self.sparse).items()
            if ending.endswith(".npy")
        }
        lines = (self.path / f"{entry.name}.documents.jsonl").read_text(encoding="utf-8").splitlines()
        stored = {row["id"]: row["text"] for row in map(json.loads, lines)}
        texts = {document: stored[document] for document, _ in entry.documents}
        starts = np.cumsum([0, *(n for _, n in entry.documents)]).tolist()
        values = arrays.pop("values")
        activations: np.ndarray | SparseRows = values
        if self.sparse:
            activations = SparseRows(arrays.pop("row_offsets"), arrays.pop("columns"), values, len(self.columns))
        return _Shard(entry, texts, arrays, activations, tuple(starts))

    def _verify(self, entry: ShardEntry) -> None:
        for part, ending in parts(sparse=self.sparse).items():
            file = self.path / (entry.name + ending)
            cure = capture_again(self.path)
            if not file.is_file():
                raise DataError(f"the shard file {file} is missing; {cure}")
            if sha256_of(file) != entry.sha256[part]:
                raise DataError(f"the shard file {file} is damaged (its sha256 is not the manifest's); {cure}")


def open_set(activations: ActivationSet | Path | str) -> StoredActivations:
    """Open an activation set by its record or its folder.

    Raises:
        DataError: the set is not complete, or (when a shard is first read) a shard file is missing or damaged.
    """
    if isinstance(activations, ActivationSet):
        return StoredActivations(activations.path, read_manifest(activations.path), record=activations)
    path = Path(activations)
    return StoredActivations(path, read_manifest(path))


def token_texts(document: StoredDocument, start: int, stop: int) -> tuple[str, ...]:
    """Texts of the tokens start..stop; joined, they are what a byte-level tokenizer decodes those ids to.

    Text is cut at the tokens' character offsets. Tokens that share a multi-byte character are merged: the first of them
    gets the text, the others "". Cut windows with `whole_characters` so that no character is split at an edge.
    """
    first, stop = max(start - 1, 0), max(stop, start)
    spans: Sequence[Sequence[int]] = document.offsets[first:stop].tolist()
    at = spans[0][1] if start else 0
    texts: list[str] = []
    head = 0
    for index, (begin, end) in enumerate(spans[start - first :]):
        if index == 0 or begin >= at:
            head = index
        texts.append("")
        if end > at:
            texts[head] += document.text[at:end]
            at = end
    return tuple(texts)


def whole_characters(document: StoredDocument, start: int, stop: int) -> tuple[int, int]:
    """Move a window's edges outwards until they cut no character."""
    offsets = document.offsets
    while 0 < start < len(offsets) and offsets[start, 0] < offsets[start - 1, 1]:
        start -= 1
    while stop < len(offsets) and offsets[stop, 0] < offsets[stop - 1, 1]:
        stop += 1
    return start, stop


def _refuse_strangers(shard: _Shard, header: Header) -> None:
    """Raise ValueError where a shard's arrays are not what the manifest says, though their hashes are."""
    activations, tokens = shard.activations, (shard.entry.n_tokens,)
    values = activations.values if isinstance(activations, SparseRows) else activations
    expected: dict[str, tuple[str, tuple[int, ...]]] = {part: (dtype, tokens) for part, dtype in _DTYPES.items()}
    expected["offsets"] = _DTYPES["offsets"], (*tokens, 2)
    expected["values"] = header.dtype, (*tokens, len(header.columns))
    found = {part: (array.dtype.name, array.shape) for part, array in shard.arrays.items()}
    found["values"] = values.dtype.name, activations.shape
    wrong = next((part for part in expected if found[part] != expected[part]), None)
    if wrong is not None:
        raise ValueError(f"its {wrong} are {found[wrong]}, and the manifest says {expected[wrong]}")
    segment = int(shard.arrays["segments"].max())
    if segment >= len(SEGMENTS):
        raise ValueError(f"a token is of segment {segment}, and there are {len(SEGMENTS)}")
    if isinstance(activations, SparseRows):
        activations.check()


def _view(shard: _Shard, index: int) -> StoredDocument:
    document_id = shard.entry.documents[index][0]
    start, stop = shard.starts[index], shard.starts[index + 1]
    arrays = {part: array[start:stop] for part, array in shard.arrays.items()}
    whole = shard.activations
    rows = whole.rows(start, stop) if isinstance(whole, SparseRows) else whole[start:stop]
    return StoredDocument(id=document_id, text=shard.texts[document_id], activations=rows, **arrays)


def _stack(above: torch.Tensor | csr_array | None, below: torch.Tensor | csr_array) -> Any:
    if above is None:
        return below
    return torch.cat([above, below]) if isinstance(below, torch.Tensor) else csr_array(vstack([above, below], "csr"))


def _sums(document: StoredDocument) -> tuple[int, np.ndarray, np.ndarray]:
    """Of the ranked tokens: how many, mean and sum of squared distances from it, per column, float64."""
    counted = document.ranked
    n = int(counted.sum())
    if not document.sparse or not n:
        values = document.values[counted].astype(np.float64)
        return n, values.mean(0) if n else values.sum(0), values.var(0) * n if n else values.sum(0)
    csr = document.csr[counted].astype(np.float64)
    mean = np.asarray(csr.sum(0)) / n
    active = np.bincount(csr.indices, minlength=csr.shape[1])
    squares = np.bincount(csr.indices, (csr.data - mean[csr.indices]) ** 2, minlength=csr.shape[1])
    return n, mean, squares + (n - active) * mean**2
