"""Settings of what is measured round interpreters. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from harness.config import Config

EVENTS = {
    "wait": r"\b[Ww]ait\b",
    "backtracking": r"(?i)\b(?:wait|hmm|actually|alternatively|let me (?:re-?)?check|on second thought|mistake)\b",
    "answer": r"(?i)\banswer\b|\\boxed\b",
    "discourse": r"\b(?:So|Then|Therefore|Thus|Hence|First|Next|Now|Also|Since|Because)\b",
    "digit": r"\d",
    "operator": r"[+×÷*/^−]|(?<=\s)-(?=\s)",
    "relation": r"[=<>≤≥≈→⇒]",
    "newline": r"\n",
}
"""Events of mathematical reasoning as regular expressions over a document's text."""


class GradingConfig(Config):
    """How the judge is judged: planted features, and features that are graded more than once."""

    planted: NonNegativeInt = 10
    """Planted features of each of seven kinds (a token, what follows one, a class, a position, two tokens, random
    tokens, a token above random ones), of densities from 0.3 to 60 %, graded like a source; 0 is none."""
    features: NonNegativeInt = 20
    """Features per source that are graded again, drawn evenly over layers; all planted ones are, besides."""
    repeats: NonNegativeInt = 1
    """How often each of them is graded again with the same request."""
    shuffles: NonNegativeInt = 1
    """How often each of them is graded again with its contexts in another order."""
    recategorised: NonNegativeInt = 60
    """Features per source for which categories are made and assigned once more, from another sample; 0 is none."""


class ScoringConfig(Config):
    """Detection, fuzzing, intruder and simulation on contexts that were not shown when a feature was explained."""

    features: NonNegativeInt = 60
    """Features per source whose explanations are scored, drawn evenly over layers; 0 is none."""
    contexts: PositiveInt = 6
    """Contexts of either kind (activating and not) per detection and fuzzing test."""
    min_contexts: PositiveInt = 3
    """Fewest held-out contexts of either kind; a feature with fewer has no score, with the reason."""
    intruders: NonNegativeInt = 3
    """Intruder tests per feature, each of four activating contexts and one that is not."""
    simulated: NonNegativeInt = 5
    """Contexts of either kind (the strongest, and random ones) whose activations are predicted token by token, each in
    a request of its own (Bills et al. 2023); 0 is none."""
    window: PositiveInt = 6
    """Tokens on either side of a context's middle."""
    documents: PositiveInt = 300
    """Documents that contexts are drawn from; seeded."""
    active_share: float = Field(default=0.3, gt=0.0, le=1.0)
    """A context activates where a token reaches this share of the feature's maximum (delphi's threshold for marks)."""
    inactive_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """A context is quiet where no token exceeds this share; those between are neither. A feature that has fewer than
    `min_contexts` quiet ones is tested on its quietest contexts, which are counted (`n_not_quiet`)."""


class CoverageConfig(Config):
    """How explanations are held against all of a feature's activation: purity, recall, and both at equal density."""

    contexts: NonNegativeInt = 10
    """Tokens of each stratum (strong, weaker, not active) that an LLM is asked about, per feature; 0 asks nobody.
    Explanations that are rules are held against every token."""
    window: PositiveInt = 6
    """Tokens shown on either side of each."""
    density: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of tokens on which features are active at most where densities are matched; None is the median of the
    sparsest source."""
    threshold_tokens: PositiveInt = 20_000
    """Tokens that thresholds are found on, of documents drawn at random; what they lead to is measured on all."""


def _compiled(patterns: dict[str, str]) -> dict[str, str]:
    import re

    for name, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}") from error
    return patterns


Patterns = Annotated[dict[str, str], AfterValidator(_compiled)]
"""Name -> regular expression."""


class EnrichmentConfig(Config):
    """Which kinds of tokens features are held against, without an interpreter."""

    events: Patterns = EVENTS
    """Name -> regular expression over a document's text; a token is an event where it overlaps a match."""
    active_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """A feature is active on a token where it exceeds this share of its maximum."""
    class_words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Ground-truth class of the corpus -> words by which an explanation names it; the class's name where none are
    given. Used to say how many explanations name the right class."""
