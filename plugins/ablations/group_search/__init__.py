"""Plugin `group-search`: which groups carry the adapter, by greedy and Shapley-sampled switching off."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration

from ..config import KLConfig


class GroupSearchConfig(KLConfig):
    """The groups, and how orders of switching them off are searched."""

    groups: Literal["projections", "blocks"] = "projections"
    """`projections`: the adapted matrices of a kind, over all layers. `blocks`: runs of layers (see `n_blocks`)."""
    n_blocks: PositiveInt = 8
    """Blocks that the layers are cut into, as equal as they go, each of two layers at least."""
    methods: tuple[Literal["greedy", "shapley"], ...] = Field(default=("greedy", "shapley"), min_length=1)
    """`greedy`: switch off one more group at a time. `shapley`: average what a group adds over orders."""
    greedy: Literal["most-first", "least-first"] = "most-first"
    """Which group is switched off next: the one that raises the KL most, or least (the paper's pruning)."""
    orders: PositiveInt = 8
    """Pairs of an order and its reverse that Shapley shares average. All orders count where all subsets of the groups
    are fewer than the subsets that so many orders visit: the shares are then exact."""
    probes: NonNegativeInt = 0
    """Fisher probes, for estimates beside the greedy order's KLs. 0 for none."""
    floor_documents: NonNegativeInt = 0
    """Documents on which the null floor is measured. 0 for none."""


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `group-search`."""
    return [
        Registration(
            name="group-search",
            config=GroupSearchConfig,
            load="harness_plugins.ablations.group_search.ablation:GroupSearch",
            summary="Greedy order and Shapley shares of projections or blocks of layers, by KL(full || ablated)",
        )
    ]
