"""ActivationWriter: documents in, shards on disk; opened again, it goes on after the last whole shard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from harness.activations.manifest import (
    Header,
    Manifest,
    ShardEntry,
    header_digest,
    parts,
    read_shard_entry,
)
from harness.activations.sparse import SparseRows, narrowed
from harness.errors import DataError, HarnessError
from harness.files import write_atomically
from harness.model.chat import Document
from harness.records import ActivationSet
from harness.records.segments import SEGMENTS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from scipy.sparse import csr_array


QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""Shares at which a set's absolute activations are described."""
_CHUNK = 1 << 20


class ActivationWriter:
    """Writes an activation set, one document after the other.

    Documents must come in the same order in every attempt: what is in whole shards is not written again (see
    `n_documents_done`), so that a capture that was interrupted ends with the same bytes as one that was not.
    """

    def __init__(
        self,
        path: Path,
        source: str,
        columns: tuple[str, ...],
        *,
        layers: tuple[int | None, ...],
        projections: tuple[str | None, ...],
        signed: bool,
        site: str,
        chat_hash: str,
        dtype: str = "float16",
        shard_tokens: int = 65536,
        sparse: bool = False,
        unit: str = "raw",
        numerics: str = "modules",
        scale: tuple[float, ...] | None = None,
        shift: tuple[float, ...] | None = None,
        write_norms: tuple[float, ...] | None = None,
    ) -> None:
        self.path = Path(path)
        self.header = Header.model_validate(
            {
                "source": source, "columns": columns, "layers": layers, "projections": projections, "signed": signed,
                "site": site, "chat_hash": chat_hash, "dtype": dtype, "shard_tokens": shard_tokens,
                "sparse": sparse,
                "unit": unit, "numerics": numerics, "scale": scale, "shift": shift,
                "write_norms": write_norms,
            }
        )  # fmt: skip
        self._digest = header_digest(self.header)
        self._shards: list[ShardEntry] = self._complete_shards()
        self._documents: list[Document] = []
        self._values: list[np.ndarray | SparseRows] = []
        self._n_tokens = 0
        self._n_split = 0

    @property
    def documents_done(self) -> tuple[str, ...]:
        """Ids of the documents in whole shards, in order: they need not be read again."""
        return tuple(document for shard in self._shards for document, _ in shard.documents)

    @property
    def n_documents_done(self) -> int:
        """How many documents are in whole shards."""
        return sum(len(shard.documents) for shard in self._shards)

    def append(
        self, document: Document, values: Float[np.ndarray, "token column"] | csr_array, *, split: bool = False
    ) -> None:
        """Add a document. A shard is written once it holds `shard_tokens` tokens.

        Args:
            document: tokens, text and segments.
            values: one row per token, as an array or sparse; either way it is stored as the set is (`sparse`).
            split: it is the first part of a longer document; counted in the manifest.

        Raises:
            DataError: rows or columns do not fit.
            HarnessError: an activation is NaN, infinite or too large for the dtype; document and column are named.
            StorageError: the disk is full.
        """
        expected = (len(document.ids), len(self.header.columns))
        if values.shape != expected:
            raise DataError(f"document {document.id!r}: activations have shape {values.shape}, expected {expected}")
        if self.header.sparse:
            rows = SparseRows.of(values, self.header.dtype)
            self._refuse_not_finite(document, values, rows.values, rows)
            self._values.append(rows)
        else:
            array = values if isinstance(values, np.ndarray) else values.toarray()
            stored = narrowed(array, self.header.dtype)
            self._refuse_not_finite(document, array, stored)
            self._values.append(stored)
        self._documents.append(document)
        self._n_tokens += len(document.ids)
        self._n_split += split
        if self._n_tokens >= self.header.shard_tokens:
            self._close_shard()

    def flush(self) -> None:
        """Write the documents that are left as the last shard.

        Raises:
            StorageError: the disk is full.
        """
        if self._documents:
            self._close_shard()

    def finish(self, item: str = "activations") -> ActivationSet:
        """Write what is left and the manifest; return the record.

        Raises:
            DataError: no document was written.
            StorageError: the disk is full.
        """
        self.flush()
        if not self._shards:
            raise DataError(f"{self.header.source}: no document was captured; the data set is empty")
        manifest = Manifest(
            header=self.header,
            shards=tuple(self._shards),
            n_tokens=sum(s.n_tokens for s in self._shards),
            n_documents=self.n_documents_done,
            n_split=sum(s.n_split for s in self._shards),
            n_bytes=sum(f.stat().st_size for f in self._arrays(parts(sparse=self.header.sparse))),
            quantiles=self._quantiles(),
        )
        text = manifest.model_dump_json(indent=1)
        write_atomically(self.path / "manifest.json", lambda stream: stream.write(text.encode()))
        return manifest.activation_set(self.path, item)

    def _arrays(self, which: Iterable[str]) -> Iterator[Path]:
        return (self._file(s.name, part) for s in self._shards for part in which if part != "documents")

    def _quantiles(self) -> tuple[tuple[float, float], ...]:
        """Of ranked tokens' absolute values, by leading 16 bits: exact for float16, at most 0.4 % high for float32."""
        half, n_ranked = self.header.dtype == "float16", 0
        counts = np.zeros(1 << 16, dtype=np.int64)
        for shard in self._shards:
            values, ranked = (np.load(self._file(shard.name, part), mmap_mode="r") for part in ("values", "ranked"))
            n_ranked += int(ranked.sum())
            if self.header.sparse:
                ranked = np.repeat(ranked, np.diff(np.load(self._file(shard.name, "row_offsets"))))
            step = max(_CHUNK // max(values[:1].size, 1), 1)
            for start in range(0, len(values), step):
                kept = np.ascontiguousarray(values[start : start + step][ranked[start : start + step]]).reshape(-1)
                bits: Any = kept.view(np.uint16 if half else np.uint32)
                counts += np.bincount(bits & 0x7FFF if half else bits << 1 >> 16, minlength=len(counts))
        counts[0] += n_ranked * len(self.header.columns) - counts.sum()
        below = np.cumsum(counts)
        at = np.searchsorted(below, np.ceil(np.array(QUANTILES) * below[-1]))
        highest = at.astype(np.uint16).view(np.float16) if half else ((at << 15) + 0x7FFF).astype(np.uint32)
        return tuple(zip(QUANTILES, highest.view(self.header.dtype).astype(float).tolist(), strict=True))

    def _complete_shards(self) -> list[ShardEntry]:
        shards: list[ShardEntry] = []
        while (path := self.path / f"shard-{len(shards):05d}.json").is_file():
            entry = read_shard_entry(path)
            if entry.header != self._digest:
                raise DataError(
                    f"{path} belongs to another activation set (other columns, chat format or dtype); "
                    f"delete {self.path} or write elsewhere"
                )
            endings = parts(sparse=self.header.sparse).values()
            missing = [ending for ending in endings if not (self.path / (entry.name + ending)).is_file()]
            if missing:
                break
            shards.append(entry)
            # A shard smaller than the limit was the last one of a finished capture.
            if entry.n_tokens < self.header.shard_tokens:
                break
        return shards

    def _refuse_not_finite(
        self, document: Document, values: Any, stored: np.ndarray, rows: SparseRows | None = None
    ) -> None:
        finite = np.isfinite(stored)
        if finite.all():
            return
        at = np.argwhere(~finite)[0]
        token, column = at if rows is None else (rows.row_of_value()[at[0]], rows.columns[at[0]])
        name, value = self.header.columns[column], float(values[token, column])
        what = f"document {document.id!r}, token {token}, column {name!r}"
        if np.isfinite(value):
            raise HarnessError(f"{what}: activation {value:.4g} does not fit {self.header.dtype}; store float32")
        raise HarnessError(f"{what}: activation is {value}; the model overflows here, load it in another dtype")

    def _close_shard(self) -> None:
        name = f"shard-{len(self._shards):05d}"
        documents = self._documents
        arrays = self._value_arrays() | {
            "ids": np.concatenate([np.asarray(d.ids, dtype=np.int32) for d in documents]),
            "offsets": np.concatenate([np.asarray(d.offsets, dtype=np.int32).reshape(-1, 2) for d in documents]),
            "segments": np.concatenate(
                [np.asarray([SEGMENTS.index(s) for s in d.segments], dtype=np.uint8) for d in documents]
            ),
            "ranked": np.concatenate([_ranked(d) for d in documents]),
        }
        sha256 = {part: self._write_array(name, part, array) for part, array in arrays.items()}
        lines = "".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents).encode()
        sha256["documents"] = write_atomically(self._file(name, "documents"), lambda s: s.write(lines))
        entry = ShardEntry(
            name=name,
            n_tokens=self._n_tokens,
            n_split=self._n_split,
            documents=tuple((d.id, len(d.ids)) for d in documents),
            sha256=sha256,
            header=self._digest,
        )
        text = entry.model_dump_json()
        write_atomically(self.path / f"{name}.json", lambda stream: stream.write(text.encode()))
        self._shards.append(entry)
        self._documents, self._values, self._n_tokens, self._n_split = [], [], 0, 0

    def _value_arrays(self) -> dict[str, np.ndarray]:
        if not self.header.sparse:
            return {"values": np.concatenate(self._values)}  # type: ignore[arg-type]
        rows = SparseRows.concatenate([v for v in self._values if isinstance(v, SparseRows)])
        return {"row_offsets": rows.row_offsets, "columns": rows.columns, "values": rows.values}

    def _file(self, name: str, part: str) -> Path:
        return self.path / (name + parts(sparse=self.header.sparse)[part])

    def _write_array(self, name: str, part: str, array: np.ndarray) -> str:
        def write(stream: BinaryIO) -> Any:
            np.save(stream, array, allow_pickle=False)

        return write_atomically(self._file(name, part), write)


def _ranked(document: Document) -> Bool[np.ndarray, " token"]:
    """The mask that all readers share: without the first token of a context, whose activations tell of position."""
    ranked = np.array(document.ranked, dtype=bool)
    ranked[:1] = False
    return ranked
