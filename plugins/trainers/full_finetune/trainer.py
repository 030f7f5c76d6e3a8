"""The implementation of `full-finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.contract.context import RunContext
from harness.model.subject import load_base
from harness.records import ModelRef

from ..training import RecipeTrainer, Weights


class FullTrainer(RecipeTrainer):
    """Trains all weights and saves a model folder `model`, in the base's dtype."""

    kind = "full"

    def build(self, base: ModelRef, run: RunContext) -> Any:
        """The base in float32: steps of 1e-5 vanish in bfloat16 weights."""
        device = "cpu" if self.config.fsdp else run.device
        return load_base(base.model_copy(update={"dtype": "float32"}), device).train()

    def save(self, model: Any, folder: Path, base: ModelRef, weights: Weights | None) -> None:
        """Write a model folder. Gathered weights are written without those that are tied to others."""
        dtype = getattr(torch, base.dtype)
        if weights is None:
            model.to(dtype).save_pretrained(folder)
            return
        tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
        state = {name: value.to(dtype) for name, value in weights.items() if name not in tied}
        model.save_pretrained(folder, state_dict=state)
