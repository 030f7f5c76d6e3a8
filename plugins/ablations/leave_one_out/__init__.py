"""Plugin `leave-one-out`: what the output loses without each component, layer, block and projection (figure 3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration

from ..config import KLConfig

Scope = Literal["adapter", "block", "layer", "projection", "component"]


class LeaveOneOutConfig(KLConfig):
    """The cells of the sweep, and which of them are measured."""

    scopes: tuple[Scope, ...] = Field(default=("adapter", "block", "layer", "projection", "component"), min_length=1)
    """What is left out, one at a time. `adapter` is all of it: the scale of the others. `block`: a run of layers."""
    n_blocks: PositiveInt = 8
    """Blocks that the layers are cut into, as equal as they go (the paper: 8 of 8 layers), two layers long at least."""
    method: Literal["auto", "exact", "screen", "fisher"] = "auto"
    """`exact`: every cell is measured. `screen`: Fisher probes estimate every component, those that look largest and a
    random audit of the others are measured, and so is everything wider than a component. `fisher`: estimates only.
    `auto`: exact up to `exact_up_to` components, screen above."""
    exact_up_to: PositiveInt = 256
    """Most components that `auto` measures one by one."""
    top_share: float = Field(default=0.10, gt=0, le=1)
    """Share of the components that screening measures because their estimates are largest."""
    audit_share: NonNegativeFloat = Field(default=0.05, le=1)
    """Share of the components, drawn from the others, that screening measures to check the estimates."""

    @model_validator(mode="after")
    def _screening_needs_probes(self) -> LeaveOneOutConfig:
        if self.method in ("screen", "fisher") and not self.probes:
            raise ValueError(f"method {self.method} needs probes: set probes to 4 or more")
        return self


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `leave-one-out`."""
    return [
        Registration(
            name="leave-one-out",
            config=LeaveOneOutConfig,
            load="harness_plugins.ablations.leave_one_out.ablation:LeaveOneOut",
            summary="KL(full || ablated) for every component, layer, block and projection, and for the whole adapter",
            version="2",
        )
    ]
