"""The implementation of `full-finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract.context import RunContext
from harness.contract.stages import Trainer
from harness.model.chat import ChatFormat
from harness.model.subject import load_base, load_tokenizer
from harness.records import Checkpoint, ModelRef, Trace

from ..training import Weights, fit
from . import FullFinetuneConfig


class FullTrainer(Trainer):
    """Trains all weights and saves a model folder `model`, in the base's dtype."""

    def __init__(self, config: FullFinetuneConfig) -> None:
        self.config = config

    def train(self, base: ModelRef, traces: Sequence[Trace], chat: ChatFormat, run: RunContext) -> Checkpoint:
        """Train, or go on where an interrupted attempt stopped.

        Raises:
            UsageError: batch sizes that do not divide.
            DataError: no trace is short enough.
        """

        def build() -> Any:
            # Steps of 1e-5 vanish in bfloat16 weights: the weights that are trained are float32.
            device = "cpu" if self.config.fsdp else run.device
            return load_base(base.model_copy(update={"dtype": "float32"}), device).train()

        def save(model: Any, folder: Path, weights: Weights | None) -> None:
            import torch

            dtype = getattr(torch, base.dtype)
            if weights is None:
                model.to(dtype).save_pretrained(folder)
            else:
                tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
                own = {k: v.to(dtype) for k, v in weights.items() if k not in tied}
                model.save_pretrained(folder, state_dict=own)

        return fit("full", build, save, self.config, base, load_tokenizer(base), traces, chat, run)
