"""random-directions: a control with the adapter's own norms and inputs but no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness import Probe, Registration, hookimpl

from .config import ReadingConfig

if TYPE_CHECKING:
    from .reading import RandomDirections


class RandomDirectionsConfig(ReadingConfig):
    """Settings of random-directions. The vectors are drawn with the step's seed."""


def _load() -> Callable[[RandomDirectionsConfig], RandomDirections]:
    from .reading import RandomDirections

    return RandomDirections


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer random-directions."""
    return [
        Registration(
            name="random-directions",
            config=RandomDirectionsConfig,
            load=_load,
            summary="random vectors of each component's norm, at the component's own input, adapter on",
            version="2",
        )
    ]
