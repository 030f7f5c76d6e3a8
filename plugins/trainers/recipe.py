"""The recipe that LoRA and full fine-tuning share: the paper's, with its silent cuts made visible. No torch."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from harness.config import Config


class Recipe(Config):
    """How a model is fitted to traces: AdamW, cosine schedule, loss on the response only, per supervised token."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate, per optimiser step."""
    epochs: PositiveInt = 5
    """Passes over the traces."""
    batch_size: PositiveInt = 16
    """Examples per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: PositiveInt = 16
    """Examples per forward pass. Must divide batch_size; 1 for traces of thousands of tokens."""
    warmup_ratio: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the steps in which the learning rate rises to its peak; then it follows a cosine to 0."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the mean of gradients."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """AdamW's decay of the mean of squared gradients."""
    weight_decay: NonNegativeFloat = 1e-4
    """AdamW's decoupled weight decay."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients above this norm are scaled down to it; 0 switches that off."""
    group_by_length: bool = False
    """Put examples of like length into one batch: less padding, in a less random order (the paper: off)."""
    max_length: PositiveInt = 20000
    """Longest example in tokens. A longer one would lose its answer: it is left out and counted, never cut."""
    bf16: bool = False
    """Run the forward and backward pass in bfloat16 (autocast); trained weights stay in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    processes: PositiveInt = 1
    """Processes of torchrun on this machine, one per GPU; micro_batch_size times these must divide batch_size."""
    fsdp: bool = False
    """Shard weights, gradients and optimiser over the processes (PyTorch FSDP2), for models that no GPU holds whole.
    The base is then loaded in float32, as the paper's was: FSDP wants one dtype; `bf16` computes in bfloat16."""
    save_steps: PositiveInt = 100
    """Optimiser steps between checkpoints: what an interruption can cost."""
    logging_steps: PositiveInt = 10
    """Optimiser steps per logged loss."""
    shuffle_traces: bool = False
    """Control: every question gets the trace and answer of another one. Such a model must not recover anything."""

    @model_validator(mode="after")
    def _shards_are_spread(self) -> Recipe:
        if self.fsdp and self.processes == 1:
            raise ValueError("fsdp shards over processes: set processes to the number of GPUs")
        return self
