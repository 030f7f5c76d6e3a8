"""`lexical`: explains features by the tokens and neighbours that their contexts share. No LLM, no cost, no chance."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from harness import Config, Interpreter, Registration, hookimpl


class LexicalConfig(Config):
    """When a rule is an explanation."""

    coverage: float = Field(default=0.9, gt=0.5, le=1.0)
    """Share of the contexts (and of their summed activation) that a rule must cover."""
    min_lift: float = Field(default=4.0, ge=1.0)
    """How much more often than by chance a rule, and each class in it, must hold: coverage / share of background
    tokens. So a class that is more than a quarter of the text explains nothing."""
    n_min: PositiveInt = 5
    """Fewest contexts that are explained."""
    background_tokens: PositiveInt = 200_000
    """Most tokens that chance is counted over; whole documents, chosen by a hash of their names."""


@hookimpl
def harness_interpreters() -> Sequence[Registration[Interpreter]]:
    """Offer `lexical`."""
    return [
        Registration(
            name="lexical",
            config=LexicalConfig,
            load="harness_plugins.interpreters.lexical.interpreter:Lexical",
            summary="explains features by shared tokens and neighbours, without an LLM",
            version="4",
            seeded=False,
            scores=True,
            deterministic=True,
            rules=True,
        )
    ]
