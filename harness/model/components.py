"""Components: the scalar channels of a LoRA adapter, found in the model rather than assumed.

A LoRA of rank r on a matrix writes `scaling * B (A x)`. Each of the r entries of `A x` is a component: it knows its
layer, its
module and its rank index, whatever the adapter is called and whichever layers it adapts.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

Block = Literal["attention", "mlp", "other"]
# The block container of the decoder architectures PEFT adapts: Llama-style `layers`, GPT-2 `h`, NeoX/MPT `blocks`.
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")


@dataclass(frozen=True)
class Component:
    """One scalar channel of an adapter.

    Attributes:
        name: `L{layer}.{projection}`, with `.r{rank_index}` where the rank is above 1.
        layer: block number in the model (not the position among adapted layers); None outside the blocks.
        module: path of the adapted module in the PEFT model.
        adapter: adapter name in the PEFT model.
        projection: last name of the module path, e.g. `gate_proj`.
        block: attention or MLP.
        rank_index: which of the module's r scalars.
        rank: r of the module.
        scaling: what PEFT multiplies B A x with (alpha / r, or alpha / sqrt(r) for rsLoRA).
        a_norm: norm of this row of A.
        b_norm: norm of this column of B; a_norm * b_norm * scaling is the norm of what it adds to the weights.
    """

    name: str
    layer: int | None
    module: str
    adapter: str
    projection: str
    block: Block
    rank_index: int
    rank: int
    scaling: float
    a_norm: float
    b_norm: float


def find_components(model: nn.Module, adapter: str | None = None) -> tuple[Component, ...]:
    """All components of the active (or named) adapter, in the model's order of modules.

    Raises:
        ModelError: the adapter binds no module, is a kind without scalar channels (DoRA), or is merged.
    """
    from peft.tuners.lora import LoraLayer

    name = adapter or _active_adapter(model)
    found: list[Component] = []
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer) or name not in module.lora_A:
            continue
        _refuse_unreadable(module, path, name)
        found.extend(_module_components(module, path, name))
    if not found:
        raise ModelError(
            f"adapter {name!r} binds no module of {type(model).__name__}: its target_modules match nothing here; "
            "is it an adapter for another architecture?"
        )
    return _with_unique_names(found)


def layer_of(module: str) -> int | None:
    """Block number in a module's path; None outside the blocks."""
    match = _LAYER.search(module)
    return int(match.group(1)) if match else None


def _active_adapter(model: nn.Module) -> str:
    active = getattr(model, "active_adapter", None)
    if isinstance(active, list):
        active = active[0] if active else None
    if not isinstance(active, str):
        raise ModelError(f"{type(model).__name__} has no active adapter; load one with PEFT first")
    return active


def _refuse_unreadable(module: Any, path: str, adapter: str) -> None:
    if getattr(module, "merged", False):
        raise ModelError(f"adapter {adapter!r} is merged into {path}: its scalars no longer exist; load it unmerged")
    if adapter in getattr(module, "lora_variant", {}) or (getattr(module, "use_dora", {}) or {}).get(adapter):
        raise ModelError(
            f"{path}: adapter {adapter!r} is not a plain LoRA (DoRA or another variant rescales the whole weight, "
            "so what it does is not a sum of scalar channels)"
        )


def _module_components(module: Any, path: str, adapter: str) -> list[Component]:
    a, b = module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach()
    layer = layer_of(path)
    projection = path.rpartition(".")[2]
    rank = a.shape[0]
    return [
        Component(
            name=f"L{layer}.{projection}" + (f".r{i}" if rank > 1 else ""),
            layer=layer,
            module=path,
            adapter=adapter,
            projection=projection,
            block=_block(path),
            rank_index=i,
            rank=rank,
            scaling=float(module.scaling[adapter]),
            a_norm=float(a[i].float().norm()),
            b_norm=float(b[:, i].float().norm()),
        )
        for i in range(rank)
    ]


def _block(path: str) -> Block:
    parent = path.rpartition(".")[0].rpartition(".")[2].lower()
    if "attn" in parent or "attention" in parent:
        return "attention"
    return "mlp" if "mlp" in parent or "ff" in parent or "feed" in parent else "other"


def _with_unique_names(found: list[Component]) -> tuple[Component, ...]:
    """GPT-2 has a `c_proj` in attention and in the MLP: such names get their parent's name in front."""
    from dataclasses import replace

    counts = Counter(c.name for c in found)
    unique = []
    for c in found:
        if counts[c.name] > 1:
            parent = c.module.rpartition(".")[0].rpartition(".")[2]
            projection = f"{parent}.{c.projection}"
            c = replace(c, projection=projection, name=c.name.replace(c.projection, projection, 1))
        unique.append(c)
    return tuple(unique)
