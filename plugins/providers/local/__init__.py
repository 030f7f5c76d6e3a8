"""`local`: a Hugging Face model in this process, through transformers or vLLM. No network, no price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from harness import Provider, ProviderConfig, Registration, hookimpl
from harness.contract.settings import EngineConfig


class LocalConfig(EngineConfig, ProviderConfig):
    """How the model runs. The model is a folder or a name on the hub: `--provider local:FOLDER`.

    The journal identifies a model by this name: if the weights in a folder change, rename the folder.
    """

    OPERATIONAL = ProviderConfig.OPERATIONAL | {"device", "batch_size", "gpu_memory_utilization"}

    engine: Literal["transformers", "vllm"] = "transformers"
    """`vllm` writes many replies at once, each sampled by a seed of its own (pip install 'interp-harness[vllm]')."""
    structured_output: bool | None = None
    """Constrain replies to the schema that is asked for. None: vLLM does; transformers does not, since that needs
    `pip install 'interp-harness[json]'`."""
    device: str = "auto"
    """torch device of transformers; `auto` is the first GPU, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights."""
    batch_size: PositiveInt = 16
    """Most requests generated together. transformers generates sampled requests one by one, each with its own seed."""
    timeout_s: PositiveFloat = 3600.0
    """Longest wait for one attempt, the wait for its batch included."""


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `local`."""
    return [
        Registration(
            name="local",
            config=LocalConfig,
            load="harness_plugins.providers.local.loading:open_model",
            summary="a Hugging Face model in this process (transformers or vLLM, its chat template, in batches)",
        )
    ]
