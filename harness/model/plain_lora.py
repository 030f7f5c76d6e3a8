"""Convert adapters whose initial values were taken out of the base's weights to plain LoRAs on the base as it is.

PiSSA and OLoRA start from factors B0, A0 of the base's weight W and train on W - s B0 A0. What they learned is
W - s B0 A0 + s B A = W + s (B A - B0 A0), a plain LoRA of twice the rank: [B | -B0] and [A; A0]. This is the formula of
PEFT's own conversion (`LoraModel.subtract_mutated_init`), which needs the initial adapter; here B0 and A0 are what
PEFT's initialisation computes from the base once more, on a copy of one matrix at a time.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import ModelError
from harness.model.components import find_components

if TYPE_CHECKING:
    from jaxtyping import Float
    from peft import LoraConfig

_RELATIVE_ZERO = 1e-6
"""A singular value below this share of |A| |B| counts as 0: A and B are stored in float32."""
_REPEATABLE = 1e-4
"""Two runs of an initialisation may differ by this share of what they take out of the weight."""


@dataclass(frozen=True)
class _Start:
    """What an initialisation does to one matrix, in float32.

    Attributes:
        a: [rank, d_in] A0.
        b: [d_out, rank] B0.
        product: s B0 A0, laid out like the weight.
        removed: what it takes out of the weight.
        tolerance: by how much the two may differ: the rounding of the weight's dtype.
    """

    a: torch.Tensor
    b: torch.Tensor
    product: torch.Tensor
    removed: torch.Tensor
    tolerance: float


def as_plain_lora(
    adapted: nn.Module, config: LoraConfig, tensors: dict[str, torch.Tensor]
) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Config and tensors of the plain LoRA that does on the base what the adapter does on its changed base.

    Args:
        adapted: the base, its weights unchanged, with the adapter on it.
        config: the adapter's, with its `init_lora_weights`.
        tensors: the adapter's, by their names in the file.

    Raises:
        ModelError: what the initialisation does to the base's weights cannot be repeated, or is no LoRA.
    """
    tensors, is_random = dict(tensors), True
    for path in dict.fromkeys(c.module for c in find_components(adapted)):
        module = adapted.get_submodule(path)
        start = _initial(module, config, seed=0)
        if is_random:  # unknown until the first module was done twice
            again = _initial(module, config, seed=1)
            if float((start.product - again.product).norm()) > _REPEATABLE * float(start.product.norm()):
                raise _cannot_convert(config, f"its factors of {path} are random")
            is_random = not torch.equal(start.product, again.product)
        _refuse_unexplained(start, config, path)
        key_a, key_b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
        a = torch.cat([tensors[key_a].double(), start.a.double().cpu()])
        b = torch.cat([tensors[key_b].double(), -start.b.double().cpu()], 1)
        tensors[key_a], tensors[key_b] = _balanced(a, b)
    return _of_twice_the_rank(config), tensors


def _initial(module: Any, config: LoraConfig, *, seed: int) -> _Start:
    """Run the initialisation on a copy of the module's base layer.

    Raises:
        ModelError: PEFT cannot run it here (it needs data or a library that are not here).
    """
    from peft import inject_adapter_in_model

    (scaling,), (rank,) = module.scaling.values(), module.r.values()
    layer = module.get_base_layer()
    scratch = nn.ModuleDict({"layer": copy.deepcopy(layer)})
    again: Any = copy.copy(config)
    again.r, again.lora_alpha, again.use_rslora, again.target_modules = rank, scaling * rank, False, {"layer"}
    again.rank_pattern, again.alpha_pattern, again.inference_mode = {}, {}, False
    again.exclude_modules = again.layers_to_transform = again.layers_pattern = None
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(again, scratch)
    except Exception as error:
        # PEFT raises what it likes where data or a library are missing.
        raise _cannot_convert(config, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    made: Any = scratch["layer"]
    before, after = layer.weight.detach(), made.get_base_layer().weight.detach()
    a, b = (getattr(made, f"lora_{m}")["default"].weight.detach().float() for m in "AB")
    product = scaling * b @ a
    product = product.T if module.fan_in_fan_out else product
    tolerance = 4 * torch.finfo(before.dtype).eps * float(before.float().norm() + product.norm())
    return _Start(a, b, product, before.float() - after.float(), tolerance)


def _refuse_unexplained(start: _Start, config: LoraConfig, path: str) -> None:
    if not bool(start.removed.any()):
        raise _cannot_convert(config, f"PEFT leaves {path} as it is at loading, though training began from another")
    difference = float((start.removed - start.product).norm())
    if not difference <= start.tolerance:
        raise _cannot_convert(config, f"what it does to {path} is not the product of two factors")


def _cannot_convert(config: LoraConfig, why: str) -> ModelError:
    return ModelError(
        f"it was made with init_lora_weights={config.init_lora_weights!r}, which changes the base's weights, and this "
        f"cannot be repeated here: {why.rstrip('.')}. Convert it where it was trained, model.save_pretrained(DIR, "
        "path_initial_model_for_weight_conversion=FOLDER_OF_THE_INITIAL_ADAPTER), or save the changed base "
        "(model.unload().save_pretrained(DIR)), name it as model.path and set init_lora_weights to true"
    )


def _balanced(
    a: Float[torch.Tensor, "rank d_in"], b: Float[torch.Tensor, "d_out rank"]
) -> tuple[Float[torch.Tensor, "rank d_in"], Float[torch.Tensor, "d_out rank"]]:
    """Factors of the same product from its singular values, float32, in which large parts no longer cancel."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = torch.where(s > _RELATIVE_ZERO * a.norm() * b.norm(), s, 0).sqrt()
    new_a, new_b = torch.zeros_like(a), torch.zeros_like(b)
    new_a[: len(s)], new_b[:, : len(s)] = root[:, None] * (vt @ q_a.T), q_b @ u * root
    return new_a.float(), new_b.float()


def _of_twice_the_rank(config: LoraConfig) -> LoraConfig:
    """The config with ranks doubled and every module's scaling as it was."""
    alpha = math.sqrt(2) if config.use_rslora else 2  # scaling is alpha / sqrt(r) or alpha / r
    doubled: Any = copy.copy(config)
    doubled.r, doubled.lora_alpha = 2 * config.r, alpha * config.lora_alpha
    doubled.rank_pattern = {name: 2 * r for name, r in doubled.rank_pattern.items()}
    doubled.alpha_pattern = {name: alpha * value for name, value in doubled.alpha_pattern.items()}
    doubled.init_lora_weights = True
    plain: LoraConfig = doubled
    return plain
