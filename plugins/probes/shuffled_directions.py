"""shuffled-directions: a control whose vectors have the very entries of the adapter's, in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness import Probe, Registration, hookimpl

from .config import ReadingConfig

if TYPE_CHECKING:
    from .reading import ShuffledDirections


class ShuffledDirectionsConfig(ReadingConfig):
    """Settings of shuffled-directions. The orders are drawn with the step's seed."""


def _load() -> Callable[[ShuffledDirectionsConfig], ShuffledDirections]:
    from .reading import ShuffledDirections

    return ShuffledDirections


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer shuffled-directions."""
    return [
        Registration(
            name="shuffled-directions",
            config=ShuffledDirectionsConfig,
            load=_load,
            summary="each component's own vector a with its entries shuffled, at the component's own input, adapter on",
        )
    ]
