"""batch-topk: a cross-layer sparse autoencoder over all of an adapter's scalars, k latents per token on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from harness import Config, DictionaryLearner, Registration, hookimpl

PAPER_CODE: Mapping[str, Any] = {
    "epochs": 1, "lr": 5e-4, "schedule": "constant", "standardise": "none", "decoder": "norm-aware",
    "dead_after_tokens": 1_000_000, "k_aux": 16, "clip_norm": None, "adam_beta2": 0.999, "warmup_steps": 100,
}  # fmt: skip
"""What `variant=paper-code` sets where nothing else is said; the maths it stands for is in `learner.maths`."""


class BatchTopKConfig(Config):
    """Settings of batch-topk."""

    variant: Literal["standard", "paper-code"] = "standard"
    """paper-code is the released code of "Rank-1 LoRAs Encode Interpretable Reasoning Signals": no ReLU, no centring by
    b_dec, free decoder rows, an auxiliary loss that encodes the error and is not detached, a constant learning rate of
    5e-4, one epoch, raw columns. Each of those that is a setting can still be set."""
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
    lr: PositiveFloat | None = None
    """Peak learning rate of Adam, per step; None is 0.1 / sqrt(latents): 1.7e-3 at 3584, 6.7e-3 at 224, both close to
    the best of a sweep."""
    schedule: Literal["decay", "constant"] = "decay"
    """Of the learning rate, after the warm-up: decay is linear to 0 over the second half of the steps."""
    warmup_steps: NonNegativeInt = 20
    """Steps of linear warm-up; at most a tenth of all steps."""
    adam_beta2: float = Field(default=0.99, gt=0, lt=1)
    """Per-step decay of Adam's mean of squared gradients. It forgets the steep first steps ten times sooner than 0.999
    does: fewer steps to the same error, and a lower error at the end (LOG.md)."""
    standardise: Literal["none", "scale", "zscore", "write-norm"] = "scale"
    """Units the columns are learnt in. scale: divided by their standard deviation, since the scale of a component (|a|)
    is arbitrary and without this the squared error is that of the few largest; zscore: less their mean, too;
    write-norm: multiplied by the norm of what a component writes per unit, so that an error counts by the size of what
    it does to the model; none: raw."""
    decoder: Literal["unit-norm", "norm-aware"] = "unit-norm"
    """unit-norm: rows of the decoder are kept at norm 1. norm-aware: they are free, and latents are ranked by
    activation times row norm (SAELens' rescale_acts_by_decoder_norm)."""
    dead_after_tokens: PositiveInt = 100_000
    """A latent that has not fired for this many tokens is dead and trained by the auxiliary loss."""
    aux_coefficient: NonNegativeFloat = 1 / 32
    """Weight of the auxiliary loss; 0 switches it off."""
    k_aux: PositiveInt | None = None
    """Dead latents per token in the auxiliary loss; None is half the number of columns."""
    threshold_decay: float = Field(default=0.99, ge=0, lt=1)
    """Per-step decay of the running mean of the batch threshold, which the validation curve uses as a fixed one. After
    training the threshold is set anew: k latents per token on average over the training tokens."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm of the squared error summed over columns; None is no clipping."""
    compute: Literal["auto", "dense", "fp32", "bf16"] = "auto"
    """How a step is computed; the result is the same up to rounding. dense: all activations, by autograd. fp32 and
    bf16: one dense product, then survivors only, on a CPU; bf16 finds them by a product in bfloat16 and scores them in
    float32, exactly as fp32 does. auto: dense on an accelerator; bf16 where the processor has it and the dictionary is
    not small; else fp32."""
    validation_tokens: NonNegativeInt = 8192
    """Held-out tokens that the curve of validation errors is measured on; nothing is chosen by them. 0 is no curve."""
    checkpoint_steps: PositiveInt = 1000
    """Steps between checkpoints: what an interruption can lose."""

    def peak_lr(self, n_latents: int) -> float:
        """The learning rate for a dictionary of this size."""
        return self.lr if self.lr is not None else 0.1 / n_latents**0.5

    @model_validator(mode="before")
    @classmethod
    def _paper_code(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("variant") == "paper-code":
            return {**PAPER_CODE, **values}
        return values


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer batch-topk."""
    return [
        Registration(
            name="batch-topk",
            config=BatchTopKConfig,
            load="harness_plugins.dictionaries.batch_topk.learner:BatchTopKLearner",
            summary="batch-top-k sparse autoencoder across layers, exported with a fixed threshold (JumpReLU)",
            version="5",
            needs=("adapter-activations",),
        )
    ]
