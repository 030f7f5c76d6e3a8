"""shuffled-directions: a control whose vectors have the very entries of the adapter's, in another order."""

from __future__ import annotations

from collections.abc import Sequence

from harness import Probe, Registration, hookimpl

from ..config import ReadingConfig


class ShuffledDirectionsConfig(ReadingConfig):
    """Settings of shuffled-directions. The orders are drawn with the step's seed."""


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer shuffled-directions."""
    return [
        Registration(
            name="shuffled-directions",
            config=ShuffledDirectionsConfig,
            control_of="adapter-activations",
            load="harness_plugins.probes.shuffled_directions.probe:ShuffledDirections",
            summary="each component's own vector a with its entries shuffled, at the component's own input, adapter on",
        )
    ]
