"""What both ablations share: documents, mode and batching. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from harness.config import Config


class KLConfig(Config):
    """On which text, and how, KL(full ‖ ablated) is measured."""

    n_documents: PositiveInt = 16
    """Traces, drawn with the step's seed (the paper: 16); all where there are fewer."""
    max_tokens: PositiveInt = 2048
    """First tokens of each document that are read (the paper: 2048). All of them count, the prompt's too."""
    mode: Literal["zero", "mean"] = "zero"
    """What the scalars are set to: 0, or their mean over these documents' tokens."""
    batch_size: PositiveInt = 16
    """Documents per forward pass."""
