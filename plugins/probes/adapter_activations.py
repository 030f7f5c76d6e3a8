"""adapter-activations: the scalar of every component of the adapter, adapter on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from harness import Probe, Registration, hookimpl

from .config import ReadingConfig

if TYPE_CHECKING:
    from .reading import AdapterActivations


class AdapterActivationsConfig(ReadingConfig):
    """Settings of adapter-activations."""

    unit: Literal["raw", "write", "zscore"] = "raw"
    """raw: a · x, as the paper has it; write: times scaling and norm of b, the size of what the component writes;
    zscore: raw, less its mean and divided by its standard deviation over the ranked tokens of all documents."""


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
            summary="a · x of every adapter component, signed, adapter on; raw, as written, or standardised",
            version="2",
        )
    ]
