"""How evidence is shown: the paper's text, the paper's code, and a corrected form. The same for every source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preset = Literal["paper-text", "paper-code", "corrected"]


@dataclass(frozen=True)
class EvidenceFormat:
    """What is shown of a feature's contexts.

    Attributes:
        n_contexts: the highest activations that are shown.
        window: tokens on either side of each; None is what was kept.
        tokens_per_context: most tokens listed under a context; None is all that fire.
        min_strength: weakest strength listed, on the scale of 0 to 10.
        scale_of: the contexts whose largest activation reads 10.00: those shown, or all that were kept.
        shuffled: contexts in a seeded random order; else strongest first.
        own_token: list a context's own token also where it is too weak.
        mark: put << >> round the strongest token of each context, or round the context's own.
        system: system prompt.
    """

    n_contexts: int = 64
    window: int | None = None
    tokens_per_context: int | None = 10
    min_strength: float = 0.5
    scale_of: Literal["shown", "kept"] = "shown"
    shuffled: bool = False
    own_token: bool = True
    mark: Literal["strongest", "own"] | None = None
    system: str | None = None


PRESETS: dict[Preset, EvidenceFormat] = {
    "paper-text": EvidenceFormat(tokens_per_context=None, min_strength=0.005),
    "paper-code": EvidenceFormat(
        n_contexts=10,
        window=8,
        scale_of="kept",
        shuffled=True,
        own_token=False,
        system="You are a helpful assistant that always responds with valid JSON.",
    ),
    "corrected": EvidenceFormat(mark="strongest"),
}
"""`paper-text`: 64 contexts and every token that fires, word for word appendix B.1. `paper-code`: what its released
code shows, 10 contexts of 8 tokens on either side in random order, strengths relative to contexts not shown, weak
targets left out (but never its tokens of the other polarity). `corrected`: 64 contexts, strongest first, at most ten
tokens each, the strongest marked in the text, strengths relative to what is shown."""
