"""adapter-activations: the scalar of every component of the adapter, adapter on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness import Probe, Registration, hookimpl

from ..config import ReadingConfig


class AdapterActivationsConfig(ReadingConfig):
    """Settings of adapter-activations."""

    unit: Literal["raw", "write", "zscore"] = "raw"
    """raw: a · x, as the paper has it; write: times scaling and norm of b, the size of what the component writes;
    zscore: raw, less its mean and divided by its standard deviation over the ranked tokens of all documents."""


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer adapter-activations."""
    return [
        Registration(
            name="adapter-activations",
            config=AdapterActivationsConfig,
            load="harness_plugins.probes.adapter_activations.probe:AdapterActivations",
            summary="a · x of every adapter component, signed, adapter on; raw, as written, or standardised",
            version="2",
            seeded=False,
        )
    ]
