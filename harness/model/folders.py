"""Find a model's local folder and check that it holds weights. No torch: this runs before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ModelError
from harness.model.traces import is_local, resolve

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def local_model(path: str) -> Path | None:
    """The folder of a local model; None for a hub id.

    Raises:
        ModelError: the path is local and the folder does not exist, or the folder holds no weights.
    """
    folder = resolve(path)
    if not folder.is_dir():
        if is_local(path):
            raise ModelError(f"no model folder {folder}")
        return None
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise ModelError(f"{folder} holds no weights (*.safetensors); is the download complete?")
    return folder
