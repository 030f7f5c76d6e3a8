"""Plugin `full-finetune`: all weights, by the same recipe. The yardstick that recovery is measured against."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveFloat

from harness.contract.hooks import hookimpl
from harness.contract.stages import Registration, Trainer

from .recipe import Recipe


class FullFinetuneConfig(Recipe):
    """The recipe at a full fine-tune's learning rate."""

    lr: PositiveFloat = 1e-5
    """Peak learning rate, per optimiser step."""


def _load() -> Callable[[FullFinetuneConfig], Trainer]:
    from .full import FullTrainer

    return FullTrainer


@hookimpl
def harness_trainers() -> list[Registration[Trainer]]:
    """Offer `full-finetune`."""
    return [
        Registration(
            name="full-finetune",
            config=FullFinetuneConfig,
            load=_load,
            summary="train all weights on the traces, by the adapter's recipe",
        )
    ]
