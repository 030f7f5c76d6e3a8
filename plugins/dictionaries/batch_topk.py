"""batch-topk: a cross-layer sparse autoencoder over all of an adapter's scalars, k latents per token on average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness import Config, DictionaryLearner, Registration, hookimpl

if TYPE_CHECKING:
    from .training import BatchTopKLearner


class BatchTopKConfig(Config):
    """Settings of batch-topk."""

    expansion: PositiveInt = 8
    """Latents per column (the paper's 448 -> 3584 is 8)."""
    k: PositiveInt = 16
    """Latents per token, on average over a batch; at most the number of latents."""
    steps: PositiveInt = 2000
    """Optimiser steps; the documents are passed over as often as that takes."""
    epochs: PositiveInt | None = None
    """Passes over the training documents; sets the steps where it is given."""
    batch_size: PositiveInt = 512
    """Tokens per step."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate of Adam, per step; it decays linearly to 0 over the second half."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warm-up; at most a tenth of all steps."""
    standardise: bool = True
    """Divide each column by its standard deviation first: the scale of a component (|A|) is arbitrary, and without
    this the squared error is that of the few largest."""
    dead_after_tokens: PositiveInt = 100_000
    """A latent that has not fired for this many tokens is dead and trained by the auxiliary loss."""
    aux_coefficient: NonNegativeFloat = 1 / 32
    """Weight of the auxiliary loss; 0 switches it off."""
    k_aux: PositiveInt | None = None
    """Dead latents per token in the auxiliary loss; None is half the number of columns."""
    threshold_decay: float = Field(default=0.99, ge=0, lt=1)
    """Per-step decay of the running mean of the batch threshold, which inference uses as a fixed one."""
    clip_norm: PositiveFloat = 1.0
    """Largest gradient norm."""
    checkpoint_steps: PositiveInt = 1000
    """Steps between checkpoints: what an interruption can lose."""


def _load() -> Callable[[BatchTopKConfig], BatchTopKLearner]:
    from .training import BatchTopKLearner

    return BatchTopKLearner


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer batch-topk."""
    return [
        Registration(
            name="batch-topk",
            config=BatchTopKConfig,
            load=_load,
            summary="batch-top-k sparse autoencoder across layers, exported with a fixed threshold (JumpReLU)",
            needs=("adapter-activations",),
        )
    ]
