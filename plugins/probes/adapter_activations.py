"""adapter-activations: the scalar of every component of the adapter (a · x), raw, adapter on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness import Probe, Registration, hookimpl

from .config import ReadingConfig

if TYPE_CHECKING:
    from .reading import AdapterActivations


class AdapterActivationsConfig(ReadingConfig):
    """Settings of adapter-activations."""


def _load() -> Callable[[AdapterActivationsConfig], AdapterActivations]:
    from .reading import AdapterActivations

    return AdapterActivations


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer adapter-activations."""
    return [
        Registration(
            name="adapter-activations",
            config=AdapterActivationsConfig,
            load=_load,
            summary="a · x of every adapter component, raw and signed, adapter on",
        )
    ]
