"""Plugin `attribute`: what each component, and each latent, contributed to a token of an answer, token by token."""

from __future__ import annotations

import re

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from harness.config import Config
from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration
from harness.records.attribute import OutcomeKind, SpanName


class AttributeConfig(Config):
    """What is attributed, how finely, and how many exact ablations it is held against."""

    n_documents: PositiveInt = 200
    """Answers, drawn with the step's seed; all where there are fewer."""
    max_tokens: PositiveInt = 2048
    """Tokens of each document that are read, from its beginning; a span that begins later is left out."""
    outcome: OutcomeKind = "log-probability"
    """`log-probability` of what is written; `logit-difference` between it and the token that the base finds most
    probable else; the probability of an `event`."""
    event: str | None = None
    """Regular expression: an outcome `event` is a next token in whose text it is found, such as `Wait`."""
    span: SpanName = "written"
    """Where outcomes are looked for: `written` is the trace and the answer without what the template writes; `trace`
    and `answer` are one of them; `response` is all that training supervises."""
    tokens_per_answer: NonNegativeInt = 1
    """Tokens of each span that are attributed, one by one: those whose outcome the adapter changed most. 0 attributes
    the whole span at once: the sum of its outcomes, of an event the mean, which is its rate."""
    nodes: PositiveInt = 4
    """Gains at which the integral is evaluated, one backward pass each; doubled while the remainder is too large."""
    max_nodes: PositiveInt = 16
    """Most gains."""
    tolerance: float = Field(default=0.05, gt=0)
    """A batch's median remainder, as a share of the difference, above which its gains are doubled."""
    own_nodes: NonNegativeInt = 2
    """Gains at which components that are switched off exactly are also attributed each along its own gain, from the
    adapter: a backward pass per component and gain; 0 for none."""
    exact_top: NonNegativeInt = 10
    """Components of each answer that are switched off exactly because their contributions are largest."""
    exact_random: NonNegativeInt = 20
    """Components that are switched off exactly beside these, drawn from the others."""
    sources: PositiveInt = 60
    """Largest contributions of a component, or a latent, at one token that are kept per answer."""
    batch_tokens: PositiveInt = 2048
    """Tokens of a batch, whose backward graph is held."""

    @field_validator("event")
    @classmethod
    def _is_a_pattern(cls, event: str | None) -> str | None:
        try:
            re.compile(event or "")
        except re.error as error:
            raise ValueError(f"event is not a regular expression: {error}") from error
        return event

    @model_validator(mode="after")
    def _an_event_has_a_pattern(self) -> AttributeConfig:
        if (self.outcome == "event") != (self.event is not None):
            raise ValueError("outcome event and a regular expression go together: set attribute.event=Wait, or neither")
        return self


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `attribute`."""
    return [
        Registration(
            name="attribute",
            config=AttributeConfig,
            load="harness_plugins.ablations.attribute.ablation:Attribute",
            summary="what each component and latent contributed to a token of an answer, by integrated gradients",
            reads=("learn",),
        )
    ]
