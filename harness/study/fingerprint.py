"""What a step's key says of the files that it reads, without importing torch."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from harness.model.folders import local_model
from harness.model.traces import resolve
from harness.records import ModelRef

_IDENTIFYING = {".json", ".jinja", ".safetensors", ".bin", ".pt"}


def model_fingerprint(base: ModelRef) -> str:
    """Fingerprint of the base model: file names, sizes and the config's and tokenizer's bytes.

    Weights are identified by name and size plus their first megabyte (the safetensors header and the first tensors):
    hashing 65 GB before every run would cost minutes.
    """
    place = local_model(base.path)
    return f"{base.path}@{base.revision or 'main'}" if place is None else _of_files(place, first_bytes=1 << 20)


def folder_fingerprint(path: str) -> str | None:
    """Hash of all bytes of a local folder that a plugin reads (an adapter, a dictionary); None for any other path."""
    place = resolve(path)
    return _of_files(place) if path and place.is_dir() else None


def _of_files(place: Path, first_bytes: int | None = None) -> str:
    parts: list[list[str | int]] = []
    files = [place] if place.is_file() else [p for p in place.iterdir() if p.is_file() and p.suffix in _IDENTIFYING]
    for file in sorted(files):
        status = file.stat()
        parts.append(
            [file.name, status.st_size, _hash(file.resolve(), status.st_size, status.st_mtime_ns, first_bytes)]
        )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.lru_cache(maxsize=1024)
def _hash(file: Path, size: int, mtime_ns: int, first_bytes: int | None) -> str:
    """SHA-256 of a file's bytes, or of the first ones. Size and time are there so that a changed file is read again."""
    with file.open("rb") as stream:
        if first_bytes is not None:
            return hashlib.sha256(stream.read(first_bytes)).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()
