"""Which class answers: vLLM's or transformers'. Only the one that is used is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import LocalConfig

if TYPE_CHECKING:
    from .model import LocalModel


def open_model(config: LocalConfig) -> LocalModel:
    """The provider for the config's engine."""
    if config.engine == "vllm":
        from .engine import EngineModel

        return EngineModel(config)
    from .model import LocalModel

    return LocalModel(config)
