"""Records of attributions: what an adapter's components contributed to a token, or a span, of an answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt

from harness.records.base import Record

OutcomeKind = Literal["log-probability", "logit-difference", "event"]
"""What is attributed: the log-probability of what is written (nats), the difference of its logit from that of the token
that the base finds most probable else (nats), or the probability of an event."""

SpanName = Literal["written", "trace", "answer", "response"]
"""Tokens of a document: trace and answer as they were written, one of them, or the response with its headers."""


class Attribution(Record):
    """An outcome of the adapter and of the base, and what each component contributed to their difference.

    Contributions are in the outcome's unit, summed over the text up to the outcome's token.
    """

    INDEXES = (("document",),)

    item: str
    """Document and token, or document and span."""
    document: str
    """The document's id."""
    outcome: OutcomeKind
    """What is attributed."""
    span: SpanName
    """Where it was looked for."""
    position: NonNegativeInt | None = None
    """The token; None for a span."""
    token: str
    """Its text; the span's name."""
    n_tokens: NonNegativeInt
    """Tokens whose outcome is summed (of an event, averaged)."""
    with_adapter: float
    """The outcome of the adapter."""
    without_adapter: float
    """The outcome of the base."""
    n_nodes: NonNegativeInt
    """Gains at which the integral was evaluated."""
    first_order: dict[str, float]
    """Component -> gradient times activation with the adapter as it is."""
    integrated: dict[str, float]
    """Component -> its integrated contribution along the common gain; they add up to the difference."""
    own: dict[str, float]
    """Component -> its contribution integrated along its own gain, the others as the adapter has them; those that were
    also switched off exactly. Empty where it was not asked for."""
    left_out: dict[str, float]
    """Component -> the outcome's fall when it alone is switched off, exactly; those that were measured."""
    drawn: tuple[str, ...]
    """Which of these were drawn at random; the others have the largest integrated contributions."""
    by_token: tuple[float, ...]
    """The integrated contribution of all components at each token, from the first."""
    latents: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Dictionary -> latent -> its integrated contribution: the largest."""
    unexplained: dict[str, float] = Field(default_factory=dict)
    """Dictionary -> the contribution of what its reconstruction leaves out, and of its bias."""
    sources: tuple[tuple[str, str, NonNegativeInt, float], ...] = ()
    """(dictionary, or empty for components; latent or component; token at which it acted; integrated contribution): the
    largest of each dictionary and of the components."""

    @property
    def difference(self) -> float:
        """What is to be explained."""
        return self.with_adapter - self.without_adapter

    @property
    def remainder(self) -> float:
        """What the integrated contributions leave out, by quadrature."""
        return self.difference - sum(self.integrated.values())
