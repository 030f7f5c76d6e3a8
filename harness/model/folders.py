"""Is a model's path a local folder, and does it hold a model? Without torch: asked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ModelError
from harness.model.traces import is_local, resolve

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def local_model(path: str) -> Path | None:
    """The folder of a local model; None for a hub id.

    Raises:
        ModelError: the path is a local one and there is no such folder, or it holds no weights.
    """
    folder = resolve(path)
    if not folder.is_dir():
        if is_local(path):
            raise ModelError(f"no model folder {folder}")
        return None
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise ModelError(f"{folder} holds no weights (*.safetensors); is the download complete?")
    return folder
