"""Plugin `full-finetune`: all weights, by the same recipe. The yardstick that recovery is measured against."""

from __future__ import annotations

from pydantic import PositiveFloat

from harness.contract.hooks import hookimpl
from harness.contract.stages import Registration, Trainer

from ..recipe import Recipe


class FullFinetuneConfig(Recipe):
    """The recipe at a full fine-tune's learning rate."""

    lr: PositiveFloat = 1e-5
    """Peak learning rate, per optimiser step."""


@hookimpl
def harness_trainers() -> list[Registration[Trainer]]:
    """Offer `full-finetune`."""
    return [
        Registration(
            name="full-finetune",
            config=FullFinetuneConfig,
            load="harness_plugins.trainers.full_finetune.trainer:FullTrainer",
            summary="train all weights on the traces, by the adapter's recipe",
        )
    ]
