"""Random vectors of each component's norm."""

from __future__ import annotations

import torch

from harness.model.components import Component, directions
from harness.model.subject import Subject

from ..control_directions import ControlDirections


class RandomDirections(ControlDirections):
    """r · x with r random and |r| = |a|, at the same inputs: what any direction of this size would show."""

    name, label = "random-directions", "random"
    site = "random vectors of each component's norm at the input of each lora_A, adapter on"

    def vector(self, subject: Subject, component: Component, generator: torch.Generator) -> torch.Tensor:
        """A random direction of norm |a|."""
        vector = torch.randn(len(directions(subject.model, component).a), generator=generator)
        return vector / vector.norm() * component.a_norm
