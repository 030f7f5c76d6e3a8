"""Plugin `differences`: where adapter, full fine-tune and base part, token by token and layer by layer."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.config import Config
from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration
from harness.interpretation.config import EVENTS, Patterns


class DifferencesConfig(Config):
    """The text, and how much of it is kept."""

    n_documents: PositiveInt = 32
    """Traces, drawn with the step's seed; all where there are fewer."""
    max_tokens: PositiveInt = 2048
    """Tokens of each document that are measured, as in the other ablations."""
    parting_tokens: NonNegativeInt = 40
    """Tokens after which adapter and base part most that are stored with their contexts."""
    per_document: PositiveInt = 4
    """At most this many of them from one document."""
    residual_tokens: PositiveInt = 1024
    """Response tokens, drawn over all documents, whose residual stream is compared in every layer. Memory grows with
    them: layers times tokens times hidden size, in float32, up to three times."""
    first_tokens: NonNegativeInt = Field(default=5, le=64)
    """First tokens of the question whose mean change is read as tokens. 0 for none."""
    directions: PositiveInt = 5
    """Singular directions of a layer's change whose shares are stored."""
    events: Patterns = EVENTS
    """Kinds of tokens besides the corpus's classes and the segments: name -> regular expression over the text."""


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `differences`."""
    return [
        Registration(
            name="differences",
            config=DifferencesConfig,
            load="harness_plugins.ablations.differences.ablation:Differences",
            summary="Tokens and layers where adapter and full fine-tune part from the base, against shuffled pairs",
            reads=("train",),
        )
    ]
