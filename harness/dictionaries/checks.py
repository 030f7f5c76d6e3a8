"""Checks of a dictionary's files: every field and tensor is known, shapes agree, numbers are finite.

What a file says beyond what is known here may change the codes, so it is refused by name rather than passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harness.errors import DataError
from harness.files import reading

CURE = "copy or fit the dictionary again"
"""Of a damaged file."""

OFF: tuple[Any, ...] = (None, False, "", "none", [], {})
"""Values that stand for a setting that is not used, whatever its name."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    with reading(file, CURE):
        config = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise DataError(f"{file} is no JSON object; {CURE}")
    return config


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name.

    Raises:
        DataError: the file is missing or damaged.
    """
    with reading(file, CURE):
        return dict(load_file(file))


def refuse_unknown_fields(file: Path, config: Mapping[str, Any], fields: frozenset[str], tool: str) -> None:
    """Raise DataError where the config has another field than `fields` with a value that is not `OFF`."""
    unknown = sorted(key for key in config.keys() - fields if config[key] not in OFF)
    if unknown:
        raise DataError(
            f"{file}: {unknown[0]}={config[unknown[0]]!r} is no field of {tool} that is known here, and it may change "
            "the codes; remove it (or move it into metadata) where it is known to change nothing"
        )


def checked(file: Path, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The tensors in float32.

    Args:
        file: where they are from, for messages.
        tensors: by name.
        shapes: of all that must be there, a letter per axis: `d` columns, `n` latents; "" is a scalar.

    Raises:
        DataError: one is missing, unknown, not finite, no floating-point tensor, empty, or of a shape that disagrees.
    """
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing:
        raise DataError(f"{file} has no tensor {missing[0]!r}; copy or fit the dictionary again")
    if unknown:
        raise DataError(f"{file}: the tensor {unknown[0]!r} is not known here, and it may change the codes")
    first = next(name for name, axes in shapes.items() if len(axes) == 2)
    sizes = dict(zip(shapes[first], tensors[first].shape, strict=False))
    floats: dict[str, torch.Tensor] = {}
    for name, axes in shapes.items():
        tensor = tensors[name]
        if not tensor.is_floating_point():
            raise DataError(f"{file}: {name} holds {tensor.dtype}, no floating-point numbers")
        if tensor.dim() != len(axes) or tuple(tensor.shape) != tuple(sizes.get(axis, 0) for axis in axes):
            raise DataError(
                f"{file}: {name} has shape {tuple(tensor.shape)}, and {first} is {tuple(tensors[first].shape)}"
            )
        if axes and not tensor.numel():
            raise DataError(f"{file}: {name} is empty; a dictionary has columns and latents")
        floats[name] = tensor.float()
        if not bool(floats[name].isfinite().all()):
            raise DataError(f"{file}: {name} is not finite; copy or fit the dictionary again")
    return floats


def whole_number(file: Path, name: str, value: object, most: int) -> int:
    """A count between 1 and `most`.

    Raises:
        DataError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 1 <= value <= most:
        raise DataError(f"{file}: {name}={value!r} is no whole number from 1 to {most}")
    return int(value)


def truth(file: Path, name: str, value: object) -> bool:
    """A setting that is on or off.

    Raises:
        DataError: it is neither.
    """
    if not isinstance(value, bool):
        raise DataError(f"{file}: {name}={value!r} is neither true nor false")
    return value
