"""mlp-neurons: the baseline of the paper, neurons of the unadapted base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from harness import Probe, Registration, hookimpl

from .config import ReadingConfig

if TYPE_CHECKING:
    from .reading import MlpNeurons


class MlpNeuronsConfig(ReadingConfig):
    """Settings of mlp-neurons."""

    n_per_layer: PositiveInt = 60
    """First n neurons of each MLP (the paper's 60); all of them where it has fewer."""
    modules: tuple[str, ...] = Field(default=("mlp.down_proj", "mlp.c_proj"), min_length=1)
    """Endings of the modules whose input is the neurons: the MLP's last matrix (Llama-style and GPT-2 names)."""


def _load() -> Callable[[MlpNeuronsConfig], MlpNeurons]:
    from .reading import MlpNeurons

    return MlpNeurons


@hookimpl
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer mlp-neurons."""
    return [
        Registration(
            name="mlp-neurons",
            config=MlpNeuronsConfig,
            load=_load,
            summary="the first n post-activation neurons of each MLP, on the unadapted base",
        )
    ]
