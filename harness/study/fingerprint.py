"""Fingerprints of model folders for steps' keys, without importing torch or reading whole weights."""

from __future__ import annotations

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
    folder = local_model(base.path)
    return f"{base.path}@{base.revision or 'main'}" if folder is None else _of_files(folder)


def folder_fingerprint(path: str) -> str | None:
    """The same of a folder that a plugin reads (an adapter, a dictionary); None if it is not local."""
    folder = resolve(path)
    return _of_files(folder) if path and folder.is_dir() else None


def _of_files(folder: Path) -> str:
    parts: list[list[str | int]] = []
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _IDENTIFYING):
        with file.open("rb") as stream:
            parts.append([file.name, file.stat().st_size, hashlib.sha256(stream.read(1 << 20)).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
