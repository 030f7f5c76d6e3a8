"""`lexical`: explains features by the tokens and neighbours that their contexts share. No LLM, no cost, no chance."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from harness import Config, Interpreter, Registration, hookimpl


class LexicalConfig(Config):
    """When a rule is an explanation."""

    coverage: float = Field(default=0.9, gt=0.5, le=1.0)
    """Share of the contexts (and of their summed activation) that a rule must cover."""
    min_lift: float = Field(default=2.0, ge=1.0)
    """How much more often than by chance a rule must hold: coverage / share of background tokens."""
    min_narrowing: float = Field(default=1.25, ge=1.0)
    """How much more often than by chance a neighbour must be there, given the token, to be named."""
    alpha: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Largest probability of so many hits by chance (binomial tail), per rule."""
    n_min: PositiveInt = 5
    """Fewest contexts that are explained."""
    background_tokens: PositiveInt = 200_000
    """Most tokens that chance is counted over; whole documents, chosen by a hash of their names."""
    category_sources: tuple[str, ...] = ("adapter-activations", "mlp-neurons")
    """Categories are those that occur in an equal number of explanations of these sources."""
    n_category_explanations: PositiveInt = 200
    """Most explanations per source that categories are made from."""


@hookimpl
def harness_interpreters() -> Sequence[Registration[Interpreter]]:
    """Offer `lexical`."""
    return [
        Registration(
            name="lexical",
            config=LexicalConfig,
            load="harness_plugins.interpreters.lexical.interpreter:Lexical",
            summary="explains features by shared tokens and neighbours, without an LLM",
            version="3",
            seeded=False,
            scores=True,
            deterministic=True,
            rules=True,
        )
    ]
