"""Plugin `rank1-lora`: a LoRA of any rank on a frozen base, by default the paper's rank 1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from harness.contract.hooks import hookimpl
from harness.contract.stages import Registration, Trainer

from ..recipe import Recipe


class Rank1LoraConfig(Recipe):
    """The adapter's shape; the rest is the recipe."""

    rank: PositiveInt = 1
    """Scalar channels per adapted matrix."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / sqrt(rank) with rsLoRA, else by alpha / rank."""
    rslora: bool = True
    """Rank-stabilised scaling. No difference at rank 1."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input while training."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Last names of the adapted matrices, or `all-linear`: every matrix of the blocks, for other architectures."""
    layer_start: NonNegativeInt = 0
    """First adapted layer."""
    layer_end: PositiveInt | None = None
    """One past the last adapted layer; None is the last layer of the model."""
    layer_stride: PositiveInt = 1
    """Adapt every n-th layer from layer_start."""


@hookimpl
def harness_trainers() -> list[Registration[Trainer]]:
    """Offer `rank1-lora`."""
    return [
        Registration(
            name="rank1-lora",
            config=Rank1LoraConfig,
            load="harness_plugins.trainers.rank1_lora.trainer:LoraTrainer",
            summary="train a LoRA (rank 1 unless told otherwise) on the traces, loss on the response only",
        )
    ]
