"""Plugin `groups`: attention, MLP and each projection switched off at once (table 2), by KL and by benchmark."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration

from ..config import KLConfig


class GroupsConfig(KLConfig):
    """Which groups are benchmarked."""

    benchmark_groups: Literal["blocks", "all", "none"] = "all"
    """`blocks`: attention and MLP; `all`: each projection too; `none`: KL only. Every group costs a full evaluation."""
    projection_items: PositiveInt | None = None
    """First n items of each benchmark for single projections; None is all. Attention and MLP always run on all."""
    evaluation_batch_size: PositiveInt = 1024
    """Most benchmark items at once, those of all groups together."""


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `groups`."""
    return [
        Registration(
            name="groups",
            config=GroupsConfig,
            load="harness_plugins.ablations.groups.ablation:Groups",
            summary="KL and benchmark scores without attention, without MLP and without each projection",
            version="3",
        )
    ]
