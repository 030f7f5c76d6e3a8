"""Records of files in the artefact folder, as they are stored with a step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records import ActivationSet, Checkpoint, Dictionary
from harness.study.step import Step

ARTEFACTS: dict[str, type[Checkpoint] | type[ActivationSet] | type[Dictionary]] = {
    "Checkpoint": Checkpoint,
    "ActivationSet": ActivationSet,
    "Dictionary": Dictionary,
}
"""Records that name a folder, by their type's name."""

FILES = "files"
"""The key of a step's inventory beside its records."""


def folder_name(step: Step) -> str:
    """The step's artefact folder, e.g. `learn-batch-topk-0123456789ab`."""
    return f"{step.name.replace('/', '-')}-{step.key[:12]}"


def inventory(folder: Path) -> dict[str, list[Any]]:
    """What a step left in its folder, model cards apart: relative path -> [size in bytes, sha256 of the content]."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md"):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return files


def damage(output: Mapping[str, Any], folder: Path, *, contents: bool) -> str | None:
    """What is wrong with the files of a done step, as a clause; None where nothing is.

    Args:
        output: the step's stored output, with its `files`.
        folder: the step's folder.
        contents: also compare every file's sha256, which reads all of them; else only that they exist in their size.
    """
    for name, (size, digest) in output.get(FILES, {}).items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size:,} bytes, {size:,} were written"
        if contents:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    return f"{path} is not what was written (its sha256 differs)"
    return None


def portable(outputs: Mapping[str, Any], root: Path, files: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Artefact records with paths relative to the artefact folder, so that both can be moved together.

    Args:
        outputs: records by type name.
        root: the artefact folder.
        files: `inventory` of the step's folder.
    """
    data: dict[str, Any] = {FILES: dict(files)} if files else {}
    for kind, record in outputs.items():
        data[kind] = record.model_dump(mode="json")
        path = record.path.resolve()
        data[kind]["path"] = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return data


def read_outputs(data: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The records again, with whole paths."""
    rows = {kind: row for kind, row in data.items() if kind != FILES}
    return {k: ARTEFACTS[k].model_validate({**row, "path": str(root / row["path"])}) for k, row in rows.items()}
