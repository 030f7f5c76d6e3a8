"""Find a local model, a folder with weights or a GGUF file. No torch: this runs before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from harness.errors import ModelError
from harness.model.traces import is_local, resolve

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def local_model(path: str) -> Path | None:
    """The folder of a local model, or its GGUF file; None for a hub id.

    Raises:
        ModelError: the path is local and there is nothing, or a folder without weights.
    """
    place = resolve(path)
    if place.is_file() and is_gguf(place):
        return place
    if not place.is_dir():
        if is_local(path) or is_gguf(place):
            raise ModelError(f"no model folder or GGUF file {place}")
        return None
    if not any(next(place.glob(pattern), None) for pattern in _WEIGHTS):
        files = sorted(place.glob("*.gguf"))
        cure = f"name the file: --set model.path={files[0]}" if files else "is the download complete?"
        raise ModelError(f"{place} holds no weights (*.safetensors); {cure}")
    return place


def is_gguf(place: Path | str) -> bool:
    """Whether a path names a GGUF file."""
    return Path(place).suffix.lower() == ".gguf"


def pretrained(path: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes for a model: a folder or hub id, and the keywords for a GGUF file.

    Raises:
        ModelError: see `local_model`, or a GGUF file and the package that reads it is not installed.
    """
    place = local_model(path)
    if place is None or place.is_dir():
        return str(place or path), {}
    if find_spec("gguf") is None:
        raise ModelError(f"{place} needs the package gguf, which is not installed: pip install 'interp-harness[gguf]'")
    return str(place.parent), {"gguf_file": place.name}
