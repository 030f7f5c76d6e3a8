"""Records of files in the artefact folder, as they are stored with a step, and whether the files are still those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.files import sha256_of
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


def inventory(folder: Path, outputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The files of a step's artefacts, model cards apart: path within the folder -> [size in bytes, sha256].

    What else lies in the folder are working notes that nobody reads once the step is done.

    Args:
        folder: the step's folder.
        outputs: its artefact records by type name; one that lies outside the folder is left out.
    """
    files = {}
    for record in outputs.values():
        if record.path.resolve().is_relative_to(folder.resolve()):
            for path in sorted(p for p in record.path.rglob("*") if p.is_file() and p.name != "README.md"):
                files[path.resolve().relative_to(folder.resolve()).as_posix()] = [path.stat().st_size, sha256_of(path)]
    return files


def damage(output: Mapping[str, Any], folder: Path, *, contents: bool) -> str | None:
    """What is wrong with the files of a done step, as a clause; None where nothing is.

    Of a step that has no inventory, and of an artefact outside its folder, only that the artefact is there is known.

    Args:
        output: the step's stored output, with its `files`.
        folder: the step's folder, in the artefact folder.
        contents: also compare every file's sha256, which reads all of them; else only that they exist in their size.
    """
    for name, (size, digest) in output.get(FILES, {}).items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size:,} bytes, {size:,} were written"
        if contents and sha256_of(path) != digest:
            return f"{path} is not what was written (its sha256 differs)"
    paths = (record.path for record in read_outputs(output, folder.parent).values())
    return next((f"{path} is missing" for path in paths if not path.exists()), None)


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
