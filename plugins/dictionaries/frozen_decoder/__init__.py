"""frozen-decoder: batch-topk over a random decoder that is never trained, the control for what a decoder has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness import DictionaryLearner, Registration, hookimpl

from ..batch_topk import BatchTopKConfig


class FrozenDecoderConfig(BatchTopKConfig):
    """Settings of frozen-decoder: batch-topk's."""

    variant: Literal["standard"] = "standard"
    """The paper's code has no frozen variant."""
    decoder: Literal["unit-norm"] = "unit-norm"
    """Its rows keep the norm 1 that they were drawn with."""


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer frozen-decoder."""
    return [
        Registration(
            name="frozen-decoder",
            config=FrozenDecoderConfig,
            load="harness_plugins.dictionaries.frozen_decoder.learner:FrozenDecoderLearner",
            summary="baseline: batch-topk whose random decoder stays fixed; encoder and biases are trained",
            needs=("adapter-activations",),
            baseline=True,
        )
    ]
