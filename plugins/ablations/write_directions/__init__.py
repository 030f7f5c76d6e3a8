"""Plugin `write-directions`: which tokens each component and latent promotes, on paper and on real text."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from harness.config import Config
from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration


class WriteDirectionsConfig(Config):
    """How many tokens, texts and random directions."""

    top: PositiveInt = 10
    """Tokens stored on each side."""
    n_null: int = Field(default=200, ge=19)
    """Random directions that each number is held against; no p-value is below 1 / (n_null + 1)."""
    n_documents: PositiveInt = 8
    """Documents that the mean effect is averaged over."""
    max_tokens: PositiveInt = 512
    """Tokens of each."""
    effect_tokens: PositiveInt = 24
    """Tokens whose log-probability the mean effect is of: those that the documents' responses use most. Each costs a
    backward pass over the documents, for all components and latents together."""


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `write-directions`."""
    return [
        Registration(
            name="write-directions",
            config=WriteDirectionsConfig,
            load="harness_plugins.ablations.write_directions.ablation:WriteDirections",
            summary="Tokens that components and latents promote, their effect on real text, and what reads them",
            reads=("probe", "learn"),
            version="2",
            writes=True,
        )
    ]
