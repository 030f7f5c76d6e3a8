"""Plugin `leave-one-out`: what the output loses without each component, layer and projection (figure 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from harness.hookspecs import hookimpl
from harness.stages import Ablation, Registration

from .config import KLConfig

Scope = Literal["adapter", "layer", "projection", "component"]


class LeaveOneOutConfig(KLConfig):
    """The cells of the sweep."""

    scopes: tuple[Scope, ...] = Field(default=("adapter", "layer", "projection", "component"), min_length=1)
    """What is left out, one at a time. `adapter` is all of it: the scale of the others."""


def _load() -> Callable[[LeaveOneOutConfig], Ablation]:
    from .sweeps import LeaveOneOut

    return LeaveOneOut


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `leave-one-out`."""
    return [
        Registration(
            name="leave-one-out",
            config=LeaveOneOutConfig,
            load=_load,
            summary="KL(full || ablated) for every component, layer and projection, and for the whole adapter",
        )
    ]
