"""Records of training: the base model, traces, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.records.base import Record

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The matrices of a Llama-style block, in the paper's order of figure 3. Other architectures use their own names."""


class ModelRef(Record):
    """A base model: a local Hugging Face folder, a GGUF file or a hub id."""

    path: str
    """Local folder, GGUF file (dequantised; needs the extra `gguf`), either as `package://PACKAGE/...` of an installed
    package, or hub id."""
    revision: str | None = None
    """Hub revision; None is the default branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the base weights. Adapters stay in float32."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off unless you have read that code."""


class Trace(Record):
    """One training example: a question, the reasoning trace and the answer."""

    id: str
    """Unique within the data set."""
    question: str
    """The user's turn."""
    trace: str
    """The reasoning, without control tokens."""
    answer: str
    """The final answer attempt, without prefix."""
    n_tokens_whole: PositiveInt | None = None
    """Tokens of its example before `data.cut` shortened it; None where it is whole."""
    spans: dict[str, tuple[tuple[int, int, str], ...]] = Field(default_factory=dict)
    """Optional ground truth: part (question, trace, answer) -> (start, end, class) character spans."""


class Checkpoint(Record):
    """The result of training: a PEFT adapter, or a full model."""

    item: str = "checkpoint"
    """Name within the step."""
    kind: Literal["adapter", "full"]
    """`adapter`: a PEFT folder on top of the base; `full`: a model folder of its own."""
    path: Path
    """The folder."""
    base: ModelRef
    """The model it was trained from."""
    chat_hash: str
    """Hash of the ChatFormat that rendered its training text."""
    n_parameters: NonNegativeInt
    """Trained parameters."""
    n_examples: NonNegativeInt
    """Training examples used; 0 for an adapter that was not trained here."""
    n_truncated: NonNegativeInt = 0
    """Examples left out because they would have lost their answer to the length limit."""
    kept_token_share: float = 1.0
    """Share of its examples' tokens that `data.cut` kept; 1 where nothing was cut."""
    n_steps: NonNegativeInt = 0
    """Optimiser steps."""
    losses: tuple[tuple[int, float], ...] = ()
    """(step, mean loss in nats per supervised token), as logged."""
