"""`autointerp`: the paper's pipeline: an LLM explains and grades each feature, makes categories, and assigns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from harness import Config, Interpreter, Registration, hookimpl

from .evidence_presets import PRESETS, EvidenceFormat, Preset


class AutointerpConfig(Config):
    """What the LLM is shown and how it is asked. The same for every source."""

    evidence: Preset = "corrected"
    """How contexts are shown: `paper-text`, `paper-code` (what its code did), or `corrected` (strongest marked)."""
    n_contexts: PositiveInt | None = None
    """Contexts shown per feature, the highest activations; None is the preset's (the paper's text: 64)."""
    tokens_per_context: PositiveInt | None = None
    """Most tokens listed with their strength under each context; None is the preset's."""
    min_strength: NonNegativeFloat | None = None
    """Weakest strength listed, on the scale of 0 to 10; None is the preset's."""
    grade_both: bool | None = None
    """Ask a second question about each explanation, the grade on contexts of all strengths beside the highest; None
    asks it unless the evidence is the paper's, which has only `grade_top`."""
    n_min: PositiveInt = 1
    """Fewest contexts that are explained."""
    max_tokens: PositiveInt = 16_000
    """Longest reply, reasoning included."""
    temperature: NonNegativeFloat | None = None
    """None leaves it to the model; reasoning models refuse the parameter."""
    structured: bool = True
    """Give the provider the reply's JSON schema; its own settings decide whether it is sent."""
    repair_turns: Literal[0, 1] = 1
    """How often a reply that cannot be read is asked for again, with the reason."""
    category_sources: tuple[str, ...] = ("adapter-activations", "mlp-neurons")
    """Categories are made from an equal number of explanations of these sources (all sources where none is there)."""
    n_category_explanations: PositiveInt = 200
    """Most explanations per source shown to make categories."""
    n_category_examples: PositiveInt = 5
    """Contexts shown to assign a category."""
    subcategories: bool = True
    """Divide the latents of each category into subcategories, which the LLM proposes for it."""
    n_min_subcategorised: PositiveInt = 8
    """Fewest latents of a category that are divided."""

    @property
    def grades_both(self) -> bool:
        """Whether the second question is asked."""
        return not self.evidence.startswith("paper") if self.grade_both is None else self.grade_both

    def form(self) -> EvidenceFormat:
        """The preset with what was set besides."""
        given = {name: getattr(self, name) for name in ("n_contexts", "tokens_per_context", "min_strength")}
        return replace(PRESETS[self.evidence], **{name: value for name, value in given.items() if value is not None})


@hookimpl
def harness_interpreters() -> Sequence[Registration[Interpreter]]:
    """Offer `autointerp`."""
    return [
        Registration(
            name="autointerp",
            config=AutointerpConfig,
            load="harness_plugins.interpreters.autointerp.interpreter:Autointerp",
            summary="an LLM explains, grades and categorises features, with the paper's prompts",
            version="3",
            asks_llm=True,
            scores=True,
        )
    ]
