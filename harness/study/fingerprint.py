"""What a step's key says of a model, without importing torch or reading all of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from harness.model.folders import local_model
from harness.model.traces import resolve
from harness.records import ModelRef

_TELLING = {".json", ".jinja", ".safetensors", ".bin", ".pt"}


def model_fingerprint(base: ModelRef) -> str:
    """What a step's key says of the base model: file names, sizes and the config's and tokenizer's bytes.

    Weights are identified by name and size plus their first megabyte (the safetensors header and the first tensors):
    hashing 65 GB before every run would cost minutes.
    """
    place = local_model(base.path)
    return f"{base.path}@{base.revision or 'main'}" if place is None else _of_files(place)


def folder_fingerprint(path: str) -> str | None:
    """The same of a folder that a plugin reads (an adapter, a dictionary); None where it is not a local one."""
    place = resolve(path)
    return _of_files(place) if path and place.is_dir() else None


def _of_files(place: Path) -> str:
    parts: list[list[str | int]] = []
    for file in sorted(p for p in place.iterdir() if p.is_file() and p.suffix in _TELLING):
        with file.open("rb") as stream:
            parts.append([file.name, file.stat().st_size, hashlib.sha256(stream.read(1 << 20)).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
