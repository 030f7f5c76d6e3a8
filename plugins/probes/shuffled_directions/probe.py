"""Each component's own vector with its entries in another order."""

from __future__ import annotations

import torch

from harness.model.components import Component, directions
from harness.model.subject import Subject

from ..control_directions import ControlDirections


class ShuffledDirections(ControlDirections):
    """a' · x with the entries of a shuffled: the same norm and the same outliers, in other places.

    A random vector meets the large dimensions of its inputs like any other. A shuffled one shows what the
    distribution of a's entries alone causes.
    """

    name, label = "shuffled-directions", "shuffled"
    site = "each component's a with its entries shuffled, at the input of each lora_A, adapter on"

    def vector(self, subject: Subject, component: Component, generator: torch.Generator) -> torch.Tensor:
        """The component's a, its entries in a random order."""
        a = directions(subject.model, component).a.cpu()
        return a[torch.randperm(len(a), generator=generator)]
