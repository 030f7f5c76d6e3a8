"""mlp-neurons: the baseline of the paper, neurons of the base, and what its code read instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt

from harness import Probe, Registration, hookimpl

from ..config import ReadingConfig


class MlpNeuronsConfig(ReadingConfig):
    """Settings of mlp-neurons."""

    n_per_layer: PositiveInt = 60
    """First n neurons of each MLP (the paper's 60); all of them where it has fewer."""
    site: Literal["post-activation", "up", "residual"] = "post-activation"
    """post-activation: the input of the MLP's last matrix, neurons proper; up: the output of `up_proj` (what the
    paper's code read); residual: the first n dimensions of the residual stream that enters each block."""
    adapter: bool = False
    """Read with the adapter on (as the paper's code did) instead of the unadapted base (as the paper says)."""
    modules: tuple[str, ...] = Field(default=("mlp.down_proj", "mlp.c_proj"), min_length=1)
    """Endings of the modules whose input is the neurons: the MLP's last matrix (Llama-style and GPT-2 names)."""
    up_modules: tuple[str, ...] = Field(default=("mlp.up_proj", "mlp.c_fc"), min_length=1)
    """Endings of the modules whose output is read for `up`."""

    def on_base(self) -> bool:
        """See `Config`."""
        return not self.adapter


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer mlp-neurons."""
    return [
        Registration(
            name="mlp-neurons",
            config=MlpNeuronsConfig,
            load="harness_plugins.probes.mlp_neurons.probe:MlpNeurons",
            summary="the first n neurons of each MLP (post-activation, up_proj or residual), on the unadapted base",
            version="2",
            seeded=False,
        )
    ]
