"""random-directions: a control with the adapter's own norms and inputs but no training."""

from __future__ import annotations

from collections.abc import Sequence

from harness import Probe, Registration, hookimpl

from ..config import ReadingConfig


class RandomDirectionsConfig(ReadingConfig):
    """Settings of random-directions. The vectors are drawn with the step's seed."""


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer random-directions."""
    return [
        Registration(
            name="random-directions",
            config=RandomDirectionsConfig,
            control_of="adapter-activations",
            load="harness_plugins.probes.random_directions.probe:RandomDirections",
            summary="random vectors of each component's norm, at the component's own input, adapter on",
            version="2",
        )
    ]
