"""The in-place path of a LoRA: the module's output is updated by one product, without PEFT's three temporaries.

`y = base(x); y += (A x) (scaling B)^T` in one `addmm_`: as cheap as no adapter. It rounds in another order than PEFT
(and in the base's dtype where that is bfloat16), so what is read with it is recorded as another numeric mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from harness.model.components import Component


class InPlace:
    """Run the components' modules in place inside the block; taps see and edit the same values as without it.

    No gradient passes through it, and `disable_adapter` does not switch it off. Make it once and enter it for every
    pass: entering costs a few microseconds per hundred modules. It uses the weights of the moment when it was made.
    """

    def __init__(self, model: nn.Module, components: Sequence[Component]) -> None:
        """`components` are of one adapter on the model; without any, nothing changes."""
        adapted = [model.get_submodule(path) for path in dict.fromkeys(c.module for c in components)]
        adapter = components[0].adapter if components else ""
        self._forwards = [(module, _forward(module, adapter)) for module in adapted]

    def __enter__(self) -> None:
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward  # setting it as an attribute costs a module 20 microseconds

    def __exit__(self, *_: object) -> None:
        for module, _forward in self._forwards:
            module.__dict__.pop("forward", None)


def _forward(module: Any, adapter: str) -> Callable[..., torch.Tensor]:
    a, b = module.lora_A[adapter], module.lora_B[adapter].weight.detach()
    base, scaling = module.base_layer, module.scaling[adapter]
    write: dict[torch.dtype, torch.Tensor] = {}

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = base(x, *args, **kwargs)
        if y.dtype not in write:
            write[y.dtype] = (b.T * scaling).to(y.dtype).contiguous()
        scalars = a(x.to(a.weight.dtype)).to(y.dtype)
        y.view(-1, y.shape[-1]).addmm_(scalars.reshape(-1, scalars.shape[-1]), write[y.dtype])
        return y

    return forward
