"""A LoRA as a PEFT folder: read and checked without a model, and written again with components switched off.

Engines such as vLLM serve adapters from folders and cannot run a tap. To switch a component off there, the adapter is
written to another folder with a B that writes nothing for it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.errors import ModelError
from harness.files import reading, reason_of
from harness.model.components import ONLY_A_LORA, Component, refuse_other_kinds

if TYPE_CHECKING:
    from jaxtyping import Float
    from peft import LoraConfig

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""In the order in which PEFT looks for them."""
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base's weights alone, in training and at loading."""
_WRAPPERS = re.compile(r"(?:^module\.|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)")
_CURE = "copy the adapter again"
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LoraFolder:
    """An adapter on disk.

    Attributes:
        path: the folder.
        modules: paths of the adapted modules, as in the PEFT model.
        rank: the largest rank of a module.
        hash: of its config and weights, so that a folder that was overwritten counts as another adapter.
    """

    path: Path
    modules: tuple[str, ...]
    rank: int
    hash: str


@dataclass(frozen=True)
class Lora:
    """An adapter as it was stored.

    Attributes:
        config: of a LoRA that only adds scaling * B A x to linear layers.
        tensors: on the CPU, in the file's dtype, all finite, by the names that PEFT gives them.
    """

    config: LoraConfig
    tensors: dict[str, torch.Tensor]


def load_lora(path: Path, *, finite: bool = True) -> Lora:
    """Read an adapter's folder; nothing in it is executed.

    Names lose what a wrapper of the trained model put in (`_orig_mod.` of torch.compile, FSDP's, DDP's).

    Args:
        path: the folder.
        finite: refuse numbers that are not; False is for looking for faults.

    Raises:
        ModelError: it is no PEFT folder, a file is damaged or missing, the adapter is no plain LoRA, or a number in it
            is not finite.
    """
    config = _config(path)
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise ModelError(f"the adapter {path} has no weights: neither {' nor '.join(WEIGHTS)} is there")
    with reading(file, _CURE, error_type=ModelError):
        if file.suffix == ".safetensors":
            stored = load_file(file)
        else:
            stored = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(stored, dict) or not stored:
        raise ModelError(f"{file} holds no weights; copy the adapter again")
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in stored.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ModelError(f"{file}: {str(key)!r} is no tensor of floating-point numbers; copy the adapter again")
        name = _WRAPPERS.sub("", key)
        if name in tensors:
            raise ModelError(f"{file} holds {name} twice, under names that differ in a wrapper's prefix")
        if finite and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"{file}: {key} is not finite (NaN or infinity; it overflowed in training?); use a checkpoint from "
                "before that, or train it again"
            )
        tensors[name] = tensor
    return Lora(config, tensors)


def read_lora(path: Path) -> LoraFolder:
    """Modules, rank and hash of an adapter's folder.

    Raises:
        ModelError: not a PEFT folder, no LoRA on linear layers in it, or one that does not act on the base as it is.
    """
    ranks = {key.removesuffix(_A): value.shape[0] for key, value in _servable(path).items() if key.endswith(_A)}
    if not ranks:
        raise ModelError(f"the adapter {path} holds no LoRA matrices")
    return LoraFolder(path, tuple(ranks), max(ranks.values()), _hash(path))


def save_as_attached(adapted: Any, folder: Path) -> None:
    """Write the adapter as it is on the model, where the folder's file says something else (`attach_adapter`).

    A file that already holds these tensors is left as it is, byte for byte.
    """
    from peft import get_peft_model_state_dict

    tensors = {k: v.contiguous() for k, v in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()}
    file = folder / WEIGHTS[0]
    if file.is_file():
        with safe_open(file, "pt") as stored:
            if {k: tuple(stored.get_slice(k).get_shape()) for k in stored.keys()} == {
                k: tuple(v.shape) for k, v in tensors.items()
            }:
                return
    save_file(tensors, file)
    (folder / WEIGHTS[1]).unlink(missing_ok=True)
    save_config(adapted.peft_config[adapted.active_adapter], folder)


def save_config(config: LoraConfig, folder: Path) -> None:
    """Write PEFT's file with module names in order: PEFT has them in a set, whose order differs between processes."""
    config = copy.copy(config)
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))


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
    if (out / CONFIG).is_file():  # written last
        return out
    weights = _servable(path)
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
    b: Float[torch.Tensor, "d_out rank"], slices: Sequence[Component], stays_on: Sequence[bool]
) -> Float[torch.Tensor, "d_out rank"]:
    gauge = slices[0].gauge
    if gauge is None or not any(stays_on):
        return torch.zeros_like(b)
    gates = torch.zeros(len(slices))
    for c, on in zip(slices, stays_on, strict=True):
        gates[c.rank_index] = float(on)
    return (b.float() @ (gauge.backward.cpu() * gates) @ gauge.forward.cpu()).to(b.dtype)


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted([folder / CONFIG, *folder.glob("adapter_model.*")]):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()} ".encode())
    return digest.hexdigest()[:16]


def _servable(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter that any PEFT engine can put on the base as it is."""
    lora = load_lora(path)
    if lora.config.init_lora_weights not in PLAIN_INITS:
        raise ModelError(
            f"the adapter {path} was made with init_lora_weights={lora.config.init_lora_weights!r}, which changes the "
            "base's weights; take it in with the plugin pretrained-adapter, which converts it to a plain LoRA"
        )
    return lora.tensors


def _config(path: Path) -> LoraConfig:
    """The adapter's configuration.

    Raises:
        ModelError: it is missing, damaged, not a LoRA's, or says something that is not a plain LoRA.
    """
    from peft import LoraConfig

    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} is no adapter: it has no {CONFIG}")
    with reading(path / CONFIG, _CURE, error_type=ModelError):
        settings = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not isinstance(settings.get("peft_type"), str):
        raise ModelError(f"{path / CONFIG} is no configuration of PEFT: it is no object with a peft_type")
    if settings["peft_type"] != "LORA":
        raise ModelError(f"the adapter {path} is of the kind {settings['peft_type']}: {ONLY_A_LORA}")
    fields = {f.name for f in dataclasses.fields(LoraConfig)}
    settings.pop("runtime_config", None)  # not a property of the adapter
    for key in sorted(settings.keys() - fields):
        if settings.pop(key) not in (None, False, "", [], {}):
            raise ModelError(
                f"{path / CONFIG}: the installed PEFT does not know {key!r}, which may change what the adapter does; "
                "install a newer PEFT, or remove the key where it is known to do nothing"
            )
    start = settings.pop("init_lora_weights", True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(**settings)
    except Exception as error:
        # PEFT checks its fields as it meets them: what it raises over a wrong one has no common type.
        raise ModelError(f"{path / CONFIG} is no configuration of a LoRA: {reason_of(error)}") from error
    config.init_lora_weights = start  # PEFT's constructor asks for libraries and data that only training needs
    _check_numbers(config, path / CONFIG)
    refuse_other_kinds(config, str(path))
    return config


def _check_numbers(config: LoraConfig, file: Path) -> None:
    """Refuse ranks that are no whole numbers above 0 and alphas that are not finite; take prefixes off their names."""
    for pattern in ("rank_pattern", "alpha_pattern"):
        value = getattr(config, pattern)
        if value is not None and not isinstance(value, dict):
            raise ModelError(f"{file}: {pattern}={value!r} is no object of module names and numbers")
        setattr(config, pattern, {_WRAPPERS.sub("", name): number for name, number in (value or {}).items()})
    for name, rank in {"r": config.r, **(config.rank_pattern or {})}.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ModelError(f"{file}: the rank {name}={rank!r} is no whole number above 0")
    for name, alpha in {"lora_alpha": config.lora_alpha, **(config.alpha_pattern or {})}.items():
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise ModelError(f"{file}: {name}={alpha!r} is no finite number, and the adapter's scaling is made of it")
