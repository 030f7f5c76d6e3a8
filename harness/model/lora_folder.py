"""A LoRA as a PEFT folder, without a model round it: how large it is, and the same one with components switched off.

Engines that serve adapters from folders know no tap. A component that is off is a folder whose B writes nothing for it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from harness.errors import ModelError
from harness.model.components import Component

if TYPE_CHECKING:
    from jaxtyping import Float

CONFIG = "adapter_config.json"
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LoraFolder:
    """An adapter on disk.

    Attributes:
        path: the folder.
        modules: paths of the adapted modules, as in the PEFT model.
        rank: the largest rank of a module.
        hash: of its config and weights: a folder that is written anew is another adapter.
    """

    path: Path
    modules: tuple[str, ...]
    rank: int
    hash: str


def read_lora(path: Path) -> LoraFolder:
    """What an adapter's folder holds.

    Raises:
        ModelError: not a PEFT folder, or no LoRA on linear layers in it.
    """
    ranks = {key.removesuffix(_A): value.shape[0] for key, value in _weights(path).items() if key.endswith(_A)}
    if not ranks:
        raise ModelError(f"the adapter {path} holds no LoRA matrices")
    return LoraFolder(path, tuple(ranks), max(ranks.values()), _hash(path))


def write_without(path: Path, components: Sequence[Component], off: Sequence[Component], out: Path) -> Path:
    """Write the adapter into `out` with components switched off; nothing is merged, A and ranks stay.

    Of rank 1, B becomes 0. Of rank r, a component is a slice of the canonical gauge G: B becomes B G^-1 D G, D the
    identity with zeros for what is off; with all r off that is exactly 0.

    Args:
        path: the adapter's folder.
        components: all of its components.
        off: those to switch off.
        out: the new folder; a finished one is used as it is.

    Returns:
        `out`.

    Raises:
        ModelError: the folder has no B for a component.
    """
    from safetensors.torch import save_file

    if (out / CONFIG).is_file():  # written last
        return out
    weights = _weights(path)
    names = {c.name for c in off}
    for module in dict.fromkeys(c.module for c in off):
        slices = [c for c in components if c.module == module]
        key = module + _B
        if key not in weights:
            raise ModelError(f"the adapter {path} has no {key}, so nothing can be switched off there")
        weights[key] = _without(weights[key], slices, [c.name not in names for c in slices])
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, str(out / "adapter_model.safetensors"))
    shutil.copyfile(path / CONFIG, out / CONFIG)
    return out


def _without(
    b: Float[torch.Tensor, "d_out rank"], slices: Sequence[Component], kept: Sequence[bool]
) -> Float[torch.Tensor, "d_out rank"]:
    gauge = slices[0].gauge
    if gauge is None or not any(kept):
        return torch.zeros_like(b)
    keep = torch.zeros(len(slices))
    for c, stays in zip(slices, kept, strict=True):
        keep[c.rank_index] = float(stays)
    return (b.float() @ (gauge.backward.cpu() * keep) @ gauge.forward.cpu()).to(b.dtype)


def _hash(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted([folder / CONFIG, *folder.glob("adapter_model.*")]):
        with file.open("rb") as stream:
            found.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()} ".encode())
    return found.hexdigest()[:16]


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from peft.utils import load_peft_weights

    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} is no adapter: it has no {CONFIG}")
    try:
        return dict(load_peft_weights(str(path), device="cpu"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"the adapter {path} cannot be read: {str(error).splitlines()[0]}") from error
