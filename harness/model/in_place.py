"""The in-place path of a LoRA: the module's output is updated by one product, without PEFT's three temporaries.

`y = base(x); y += (A x) (scaling B)^T` in one `addmm_`: as cheap as no adapter. It rounds in another order than PEFT
(and in the base's dtype where that is bfloat16), so what is read with it is recorded as another numeric mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from harness.model.components import Component


@contextmanager
def in_place(model: nn.Module, components: Sequence[Component]) -> Iterator[None]:
    """Run the components' modules in place while the block runs; also taps see and edit what they always do.

    No gradient passes through it, and `disable_adapter` does not reach it.
    """
    adapted: list[Any] = [model.get_submodule(path) for path in dict.fromkeys(c.module for c in components)]
    adapter = components[0].adapter if components else ""
    try:
        for module in adapted:
            module.forward = _forward(module, adapter)
        yield
    finally:
        for module in adapted:
            module.__dict__.pop("forward", None)


def _forward(module: Any, adapter: str) -> Callable[..., torch.Tensor]:
    a, b = module.lora_A[adapter], module.lora_B[adapter].weight.detach()
    write: dict[torch.dtype, torch.Tensor] = {}

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = module.base_layer(x, *args, **kwargs)
        if y.dtype not in write:
            write[y.dtype] = (b.T * module.scaling[adapter]).to(y.dtype).contiguous()
        scalars = a(x.to(a.weight.dtype)).to(y.dtype)
        y.view(-1, y.shape[-1]).addmm_(scalars.reshape(-1, scalars.shape[-1]), write[y.dtype])
        return y

    return forward
