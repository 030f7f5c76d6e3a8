"""What an activation set is made of on disk: a manifest, and shards of raw arrays beside their documents.

A folder holds, per shard `shard-00000`, one file per part (`parts`), a `.json` that is written last (a shard without it
does not count), and `manifest.json` once the set is complete. Arrays are raw `.npy`: fp16 activations do not compress
(7 % at a twelfth of the speed), and raw files can be memory-mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness.config import digest
from harness.errors import DataError
from harness.files import reading
from harness.records import ActivationSet, Record

_TOKENS = {
    "ids": ".ids.npy",
    "offsets": ".offsets.npy",
    "segments": ".segments.npy",
    "ranked": ".ranked.npy",
    "documents": ".documents.jsonl",
}
_DENSE = {"values": ".values.npy"}
_SPARSE = {"row_offsets": ".row_offsets.npy", "columns": ".columns.npy", "values": ".values.npy"}


def parts(*, sparse: bool) -> dict[str, str]:
    """Part -> file ending.

    ids, segments, ranked [token]; offsets [token, 2] characters; values [token, column], or compressed sparse rows:
    row_offsets [token + 1], columns [value], values [value].
    """
    return (_SPARSE if sparse else _DENSE) | _TOKENS


ValueType = Literal["float16", "float32"]


class Header(Record):
    """What all shards of a set have in common."""

    source: str
    """Name of the set."""
    columns: tuple[str, ...]
    """Column names, in order."""
    layers: tuple[int | None, ...]
    """Layer of each column."""
    projections: tuple[str | None, ...]
    """Projection of each column."""
    signed: bool
    """Whether negative activations are a feature of their own."""
    site: str
    """Where the columns were read, in words."""
    chat_hash: str
    """Hash of the ChatFormat that rendered the documents."""
    dtype: ValueType = "float16"
    """Dtype of the values."""
    sparse: bool = False
    """Whether shards are compressed sparse rows: most values are 0."""
    shard_tokens: int = 65536
    """A shard is closed once it holds this many tokens."""
    unit: Literal["raw", "write", "zscore"] = "raw"
    """Of the values (see `ActivationSet.unit`)."""
    numerics: str = "modules"
    """How the model was run (see `ActivationSet.numerics`)."""
    scale: tuple[float, ...] | None = None
    """Per column: stored = (raw - shift) * scale; None is 1."""
    write_norms: tuple[float, ...] | None = None
    """Per column: norm of what one raw unit writes; None where that is not known."""
    shift: tuple[float, ...] | None = None
    """Per column; None is 0."""


class ShardEntry(Record):
    """One complete shard."""

    name: str
    """Stem of its files."""
    n_tokens: int
    """Rows."""
    n_split: int = 0
    """Documents longer than the model's context whose first part is here."""
    documents: tuple[tuple[str, int], ...]
    """(document id, tokens), in order."""
    sha256: dict[str, str]
    """Part -> sha256 of its file."""
    header: str
    """Digest of the header it was written under."""


class Manifest(Record):
    """A complete set."""

    format: Literal[3] = 3
    """Version of this layout."""
    header: Header
    """What all shards have in common."""
    shards: tuple[ShardEntry, ...]
    """The shards, in document order."""
    n_tokens: int
    """Rows of all shards."""
    n_documents: int
    """Documents of all shards."""
    n_split: int = 0
    """Documents longer than the model's context, read in parts."""
    n_bytes: int = 0
    """Size of the arrays on disk."""
    quantiles: tuple[tuple[float, float], ...] = ()
    """(share, value): this share of the ranked tokens' absolute activations is at most the value."""

    def activation_set(self, path: Path, item: str = "activations") -> ActivationSet:
        """The record of this set."""
        header = self.header
        return ActivationSet(
            item=item,
            source=header.source,
            path=path,
            columns=header.columns,
            layers=header.layers,
            projections=header.projections,
            signed=header.signed,
            n_tokens=self.n_tokens,
            n_documents=self.n_documents,
            chat_hash=header.chat_hash,
            site=header.site,
            dtype=header.dtype,
            unit=header.unit,
            numerics=header.numerics,
            sparse=header.sparse,
            n_split=self.n_split,
            n_bytes=self.n_bytes,
            quantiles=self.quantiles,
        )


def header_digest(header: Header) -> str:
    """sha256 of a header: shards of another header do not belong to the set."""
    return digest(header.model_dump(mode="json"))


def read_shard_entry(path: Path) -> ShardEntry:
    """A shard's `.json`.

    Raises:
        DataError: it is not one of ours.
    """
    with reading(path, capture_again(path.parent)):
        return ShardEntry.model_validate_json(path.read_bytes())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete set.

    Raises:
        DataError: there is none, it is not one of ours, or it contradicts itself.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no manifest.json: the capture is not complete; run it again to finish it")
    with reading(path, capture_again(folder)):
        manifest = Manifest.model_validate_json(path.read_bytes())
        _refuse_contradictions(manifest)
    return manifest


def capture_again(folder: Path) -> str:
    """The cure of a damaged set."""
    return f"delete {folder} and capture again"


def _refuse_contradictions(manifest: Manifest) -> None:
    """Raise ValueError where the numbers of a manifest contradict one another."""
    header, shards = manifest.header, manifest.shards
    for name in ("layers", "projections", "scale", "write_norms", "shift"):
        value = getattr(header, name)
        if value is not None and len(value) != len(header.columns):
            raise ValueError(f"{len(value)} {name} for {len(header.columns)} columns")
    for shard in shards:
        lengths = [n for _, n in shard.documents]
        if not lengths or min(lengths) < 1 or sum(lengths) != shard.n_tokens:
            raise ValueError(f"{shard.name} holds {shard.n_tokens} tokens, and its documents {sum(lengths)}")
    counted = sum(shard.n_tokens for shard in shards), sum(len(shard.documents) for shard in shards)
    if counted != (manifest.n_tokens, manifest.n_documents):
        raise ValueError(f"{manifest.n_tokens} tokens of {manifest.n_documents} documents; the shards' are {counted}")
