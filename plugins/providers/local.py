"""`local`: a Hugging Face model in this process, through transformers. No network, no price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from harness import Provider, ProviderConfig, Registration, hookimpl


class LocalConfig(ProviderConfig):
    """How the model runs. The model is a folder or a name on the hub: `--provider local:FOLDER`.

    The journal knows a model by this name: give a folder whose weights change another name.
    """

    OPERATIONAL = ProviderConfig.OPERATIONAL | {"device", "batch_size"}

    device: str = "auto"
    """torch device; `auto` is the first GPU, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    batch_size: PositiveInt = 16
    """Most requests generated together; those with a temperature are generated one by one, each with its own seed."""
    timeout_s: PositiveFloat = 3600.0
    """Longest wait for one attempt, the wait for its batch included."""


def _load() -> Callable[[Any], Provider]:
    from .local_model import LocalModel

    return LocalModel


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `local`."""
    return [
        Registration(
            name="local",
            config=LocalConfig,
            load=_load,
            summary="a Hugging Face model in this process (transformers, its chat template, in batches)",
        )
    ]
