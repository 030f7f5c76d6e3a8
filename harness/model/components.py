"""Components: the scalar channels of a LoRA adapter, read off the PEFT model.

A LoRA on a matrix adds `scaling * B (A x)` to the matrix's output. At rank 1 the component is the scalar a·x. At rank r
the r scalars are taken in the canonical gauge (`gauge`), because rotation, norm and sign of the trained A and B are
arbitrary. Names and layers come from the modules that are adapted, whatever the adapter is called.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from harness.errors import ModelError
from harness.model.gauge import Gauge, canonical_gauge

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import nn

Block = Literal["attention", "mlp", "other"]
ONLY_A_LORA = "only a LoRA has scalar channels to read"
# Names of the list of decoder layers: Llama-style `layers`, GPT-2 `h`, NeoX/MPT `blocks`.
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")


@dataclass(frozen=True)
class Component:
    """One scalar channel of an adapter: at each token it reads s = a·x and adds scaling * s * b to the module's output.

    Attributes:
        name: `L{layer}.{projection}`, with `.r{rank_index}` where the rank is above 1; unique within the adapter.
        layer: number of the decoder layer in the model, from 0 (not the position among adapted layers); None for a
            module outside the decoder layers.
        module: path of the adapted module in the PEFT model.
        adapter: name of the adapter in the PEFT model, `default` unless it was given another.
        projection: last part of the module's path, such as `gate_proj`, with its parent's name in front where two
            modules of a layer share it (`attn.c_proj`).
        block: `attention`, `mlp`, or `other` for modules that are in neither.
        rank_index: which of the module's r scalars, from 0, sorted by what they add to the weights, largest first.
        rank: r of the module.
        scaling: the factor of B A x (alpha / r, or alpha / sqrt(r) for rsLoRA).
        a_norm: Euclidean norm of a, the direction that it reads.
        b_norm: Euclidean norm of b, the direction that it writes. |scaling| * a_norm * b_norm is the Frobenius norm of
            what the component adds to the module's weight.
        gauge: the change from the module's trained scalars (the rows of A) to its components; None at rank 1, where
            they are the same. Not compared when components are compared.
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
    gauge: Gauge | None = field(default=None, compare=False, repr=False)

    @property
    def write_norm(self) -> float:
        """Norm of what a scalar of 1 adds to the module's output; a raw scalar times this is in the unit `write`."""
        return abs(self.scaling) * self.b_norm


@dataclass(frozen=True)
class Directions:
    """The vectors of a component, in its gauge: it adds scaling * b (a·x) to its module's output.

    Attributes:
        a: [d_in] the direction that it reads.
        b: [d_out] the direction that it writes.
    """

    a: Float[torch.Tensor, " d_in"]
    b: Float[torch.Tensor, " d_out"]


def find_components(model: nn.Module, adapter: str | None = None) -> tuple[Component, ...]:
    """All components of the active (or named) adapter, in the model's order of modules.

    Raises:
        ModelError: the adapter binds no module, is merged, or does something that is not a sum of scalar channels.
    """
    from peft.tuners.lora import LoraLayer

    name = adapter or _active_adapter(model)
    configs: Any = getattr(model, "peft_config", {})
    if name in configs:
        refuse_other_kinds(configs[name], name)
    components: list[Component] = []
    path_by_matrix: dict[int, str] = {}
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer) or not _adapts(module, name):
            continue
        _refuse_unreadable(module, path, name)
        first = path_by_matrix.setdefault(id(module.lora_A[name]), path)
        if first != path:
            raise ModelError(f"{path} and {first} share one lora_A (tied adapters): their scalars cannot be told apart")
        components.extend(_module_components(module, path, name))
    if not components:
        raise ModelError(
            f"adapter {name!r} binds no module of {type(model).__name__}: its target_modules match nothing here; "
            "is it an adapter for another architecture?"
        )
    return _with_unique_names(components)


def directions(model: nn.Module, component: Component) -> Directions:
    """The component's a and b, float32, in its gauge."""
    module: Any = model.get_submodule(component.module)
    a, b = _factors(module, component.adapter, component.gauge)
    return Directions(a[component.rank_index], b[:, component.rank_index])


def layer_of(module: str) -> int | None:
    """Block number in a module's path; None outside the blocks."""
    match = _LAYER.search(module)
    return int(match.group(1)) if match else None


def _active_adapter(model: nn.Module) -> str:
    active: Any = getattr(model, "active_adapters", None)
    active = getattr(model, "active_adapter", None) if active is None or callable(active) else active
    names = [active] if isinstance(active, str) else list(active or [])
    if not names:
        raise ModelError(f"{type(model).__name__} has no active adapter; load one with PEFT first")
    if len(names) > 1:
        raise ModelError(
            f"adapters {', '.join(map(repr, names))} are active together: switching one off would leave the others on; "
            "activate the one to study (set_adapter)"
        )
    return str(names[0])


def _adapts(module: Any, adapter: str) -> bool:
    return adapter in module.lora_A or adapter in getattr(module, "lora_embedding_A", {})


def refuse_other_kinds(config: Any, adapter: str) -> None:
    """Refuse adapters that do more, or something else, than add scaling * B A x.

    Args:
        config: the adapter's, of PEFT.
        adapter: its name or folder, for the message.

    Raises:
        ModelError: it names the setting.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise ModelError(f"adapter {adapter!r} is of the kind {kind}: {ONLY_A_LORA}")
    for option in ("modules_to_save", "trainable_token_indices"):
        if getattr(config, option, None):
            raise ModelError(
                f"adapter {adapter!r} also replaces whole weights ({option}={getattr(config, option)}): what it does "
                "is not only the sum of its scalar channels, so ablations would not add up to the base model"
            )
    if getattr(config, "bias", "none") != "none":
        raise ModelError(
            f"adapter {adapter!r} also trains biases (bias={config.bias!r}): they act with every scalar at 0"
        )
    if getattr(config, "layer_replication", None):
        raise ModelError(
            f"adapter {adapter!r} repeats layers of the base (layer_replication={config.layer_replication}): with "
            "every component off the model would be deeper than the base; make the deeper model the base, train on it"
        )
    if getattr(config, "task_type", None) not in (None, "CAUSAL_LM"):
        raise ModelError(f"adapter {adapter!r} was made for the task {config.task_type}: only CAUSAL_LM is studied")
    if getattr(config, "alora_invocation_tokens", None):
        raise ModelError(
            f"adapter {adapter!r} is an activated LoRA (alora_invocation_tokens={config.alora_invocation_tokens}): it "
            "acts only from these tokens on, which the harness does not follow; train it without them"
        )
    for setting in dataclasses.fields(config):  # DoRA and what else PEFT marks as another forward pass
        if setting.metadata.get("is_lora_variant") and getattr(config, setting.name):
            raise ModelError(
                f"adapter {adapter!r} is not a plain LoRA ({setting.name}={getattr(config, setting.name)!r}): what it "
                "does is not a sum of scalar channels"
            )


def idle_reason(components: Sequence[Component], where: str) -> str | None:
    """The sentence for an adapter that changes nothing, so that every number about it is 0 or 0 divided by 0.

    None where a component writes something.
    """
    if any(c.a_norm * c.write_norm > 0 for c in components):
        return None
    return (
        f"the adapter {where} changes nothing: lora_B (or lora_A, or the scaling) is 0 in all of its {len(components)} "
        "components, as before the first training step; train it, or take a later checkpoint"
    )


def _refuse_unreadable(module: Any, path: str, adapter: str) -> None:
    if getattr(module, "merged", False):
        raise ModelError(f"adapter {adapter!r} is merged into {path}: its scalars no longer exist; load it unmerged")
    if adapter in getattr(module, "lora_variant", {}) or (getattr(module, "use_dora", {}) or {}).get(adapter):
        raise ModelError(
            f"{path}: adapter {adapter!r} is not a plain LoRA (DoRA or another variant rescales the whole weight, "
            "so what it does is not a sum of scalar channels)"
        )
    if adapter not in module.lora_A or not isinstance(module.lora_A[adapter], torch.nn.Linear):
        raise ModelError(
            f"{path}: adapter {adapter!r} adapts a {type(module.get_base_layer()).__name__}, where there is no a·x to "
            "read; leave it out of target_modules"
        )
    if not hasattr(module, "in_features") or type(module).__name__ == "ParamWrapper":
        raise ModelError(f"{path}: adapter {adapter!r} adapts a bare parameter, whose A and B never meet an x alone")
    if module.lora_B[adapter].bias is not None:
        raise ModelError(f"{path}: adapter {adapter!r} has a bias in B (lora_bias), which acts with every scalar at 0")


def _factors(module: Any, adapter: str, gauge: Gauge | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, d_in] and B [d_out, rank], float32, in the gauge."""
    a, b = module.lora_A[adapter].weight.detach().float(), module.lora_B[adapter].weight.detach().float()
    return (a, b) if gauge is None else (gauge.forward @ a, b @ gauge.backward)


def _module_components(module: Any, path: str, adapter: str) -> list[Component]:
    rank = module.lora_A[adapter].weight.shape[0]
    gauge = canonical_gauge(module.lora_A[adapter].weight, module.lora_B[adapter].weight) if rank > 1 else None
    a, b = _factors(module, adapter, gauge)
    layer = layer_of(path)
    projection = path.rpartition(".")[2]
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
            a_norm=float(a[i].norm()),
            b_norm=float(b[:, i].norm()),
            gauge=gauge,
        )
        for i in range(rank)
    ]


def _block(path: str) -> Block:
    parent = path.rpartition(".")[0].rpartition(".")[2].lower()
    if "attn" in parent or "attention" in parent:
        return "attention"
    return "mlp" if "mlp" in parent or "ff" in parent or "feed" in parent else "other"


def _with_unique_names(components: list[Component]) -> tuple[Component, ...]:
    """GPT-2 has a `c_proj` in attention and in the MLP: such names get their parent's name in front."""
    counts = Counter(c.name for c in components)
    unique = []
    for c in components:
        if counts[c.name] > 1:
            parent = c.module.rpartition(".")[0].rpartition(".")[2]
            projection = f"{parent}.{c.projection}"
            c = replace(c, projection=projection, name=c.name.replace(c.projection, projection, 1))
        unique.append(c)
    return tuple(unique)
