"""Records of files in the artefact folder, as they are stored with a step."""

from __future__ import annotations

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


def folder_name(step: Step) -> str:
    """The step's artefact folder, e.g. `learn-batch-topk-0123456789ab`."""
    return f"{step.name.replace('/', '-')}-{step.key[:12]}"


def portable(outputs: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Artefact records with paths relative to the artefact folder, so that both can be moved together."""
    data = {}
    for kind, record in outputs.items():
        data[kind] = record.model_dump(mode="json")
        path = record.path.resolve()
        data[kind]["path"] = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return data


def read_outputs(data: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The records again, with full paths."""
    return {k: ARTEFACTS[k].model_validate({**row, "path": str(root / row["path"])}) for k, row in data.items()}
