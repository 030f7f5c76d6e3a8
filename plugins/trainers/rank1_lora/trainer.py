"""The implementation of `rank1-lora`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from harness.contract.context import RunContext
from harness.errors import ModelError, UsageError
from harness.model.lora_folder import save_config
from harness.model.subject import load_base
from harness.records import ModelRef

from ..training import RecipeTrainer, Weights
from . import Rank1LoraConfig


class LoraTrainer(RecipeTrainer):
    """Trains a LoRA on a frozen base and saves it as a PEFT folder `adapter`, weights in float32."""

    kind = "adapter"
    config: Rank1LoraConfig

    def build(self, base: ModelRef, run: RunContext) -> Any:
        """The base with a fresh adapter.

        Raises:
            ModelError: a target module that the base does not have.
            UsageError: layers that the base does not have.
        """
        if self.config.fsdp:
            return add_lora(load_base(base.model_copy(update={"dtype": "float32"}), "cpu"), self.config, run.seed)
        return add_lora(load_base(base, run.device), self.config, run.seed)

    def save(self, model: Any, folder: Path, base: ModelRef, weights: Weights | None) -> None:
        """Write a PEFT folder."""
        config = replace(model.peft_config["default"], inference_mode=True)
        if weights is None:
            # The base's embeddings are never adapted: PEFT's own guess would look the base up on the hub.
            model.save_pretrained(folder, save_embedding_layers=False)
            save_config(config, folder)
            return
        # PEFT looks tensors up by module, and activation checkpointing renames modules. This writes the same files.
        save_config(config, folder)
        tensors = {k.replace(".default.", "."): v.contiguous() for k, v in weights.items() if ".lora_" in k}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def add_lora(model: Any, config: Rank1LoraConfig, seed: int) -> Any:
    """The base with a fresh adapter (A random from `seed`, B zero); only the adapter requires grad.

    Raises:
        ModelError: a target module that the base does not have.
        UsageError: layers that the base does not have.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = _targets(model, config)
    transposed = {isinstance(m, Conv1D) for n, m in model.named_modules() if n.rpartition(".")[2] in targets}
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT says int and computes with a float
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=sorted(targets),
        layers_to_transform=_layers(model.config.num_hidden_layers, config),
        fan_in_fan_out=transposed == {True},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def _layers(n_layers: int, config: Rank1LoraConfig) -> list[int] | None:
    end = n_layers if config.layer_end is None else config.layer_end
    if end > n_layers or config.layer_start >= end:
        raise UsageError(
            f"layers {config.layer_start} to {end} of a model with {n_layers}; "
            "set layer_start below layer_end, and layer_end to at most the number of layers"
        )
    layers = list(range(config.layer_start, end, config.layer_stride))
    return None if len(layers) == n_layers else layers


def _targets(model: nn.Module, config: Rank1LoraConfig) -> set[str]:
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = {
        n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head
    }
    if config.target_modules == "all-linear":
        return linear
    for name in config.target_modules:
        if name not in linear:
            raise ModelError(
                f"{type(model).__name__} has no matrix {name!r}; it has {', '.join(sorted(linear))} "
                "(target_modules=all-linear takes them all)"
            )
    return set(config.target_modules)
