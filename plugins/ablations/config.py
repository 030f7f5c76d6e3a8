"""What all ablations share: documents, mode, batching and estimates. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from harness.config import Config


class KLConfig(Config):
    """On which text, and how, KL(full ‖ ablated) is measured."""

    n_documents: PositiveInt = 32
    """Traces, drawn with the step's seed (the paper: 16); all where there are fewer. With 32 the 95 % intervals hold
    the mean KL of skewed documents 94 % of the time, with 16 93 %, with fewer less often."""
    max_tokens: PositiveInt = 2048
    """Tokens of each document that are measured (the paper: the first 2048): its prompt, at most half of them where the
    response needs them, and the response from its beginning. What precedes them is read as context."""
    mode: Literal["zero", "mean"] = "zero"
    """What the scalars are set to: 0, or their mean over these documents' tokens."""
    batch_size: PositiveInt = 16
    """Documents per forward pass."""
    ablations_per_batch: PositiveInt = 1
    """Ablations that share a forward pass, as rows of a larger batch. On a GPU with short documents more is faster;
    on a CPU it is slower."""
    numerics: Literal["modules", "in-place"] = "modules"
    """How the adapter is run: by PEFT's own modules, or in place: faster, rounding in another order. Recorded with the
    scores. Probes always use the modules."""
    probes: NonNegativeInt = 4
    """Fisher probes: random backward passes, each of which estimates the KL of every ablation at once. 0 for none."""
    floor_documents: NonNegativeInt = 4
    """Documents on which the null floor is measured: the KL that rounding noise of one unit in the last place makes
    when it is added at the ablation's first layer. 0 for none."""
