"""abs-topk: batch-topk with signed latents, for signed data: a scalar that goes both ways needs one latent, not two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveInt

from harness import DictionaryLearner, Registration, hookimpl

from ..batch_topk import BatchTopKConfig


class AbsTopKConfig(BatchTopKConfig):
    """Settings of abs-topk: batch-topk's, with half of its latents, because each is two features."""

    variant: Literal["standard"] = "standard"
    """The paper's code has no signed variant."""
    expansion: PositiveInt = 4
    """Latents per column; each has two polarities."""


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer abs-topk."""
    return [
        Registration(
            name="abs-topk",
            config=AbsTopKConfig,
            load="harness_plugins.dictionaries.abs_topk.learner:AbsTopKLearner",
            summary="batch-top-k sparse autoencoder with signed latents, ranked by size",
            needs=("adapter-activations",),
        )
    ]
