"""The output score: whether an explanation, made from what a feature reads, says which tokens the feature raises.

The tokens are those whose mean effect on real text was measured (`WriteDirection.effect_tokens`): the ones that the
text uses most, so that all are of like frequency. The third that the feature raises most is to be told from the rest,
by the explanation alone. The null is the same answer held against the third that a random direction raises, of the same
norms in the same modules: it shares the tokens, their number, and whatever the explanation likes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.interpretation.scoring import score
from harness.records import ExplanationScore, ScoringAnswer, ScoringContext, ScoringTest, WriteDirection

RAISED_SHARE = 1 / 3
"""Of the measured tokens, those that count as raised."""
RANDOM = "output-random"
"""The kind of the null."""


def output_test(written: WriteDirection) -> ScoringTest:
    """One context per measured token, alphabetically: their order by effect would give the answer away."""
    return ScoringTest(
        item=f"output/{written.item}",
        kind="output",
        source=written.source,
        feature=written.feature,
        contexts=_contexts(written.effect_tokens),
    )


def output_scores(written: WriteDirection, answer: ScoringAnswer, interpreter: str) -> tuple[ExplanationScore, ...]:
    """The score by what the feature raises, and by what a random direction does."""
    test = output_test(written)
    random = test.model_copy(update={"kind": RANDOM, "contexts": _contexts(written.null_tokens)})
    return tuple(
        score([t], {test.item: answer}, interpreter).model_copy(update={"item": f"{t.kind}/{written.item}"})
        for t in (test, random)
    )


def _contexts(ranked: Sequence[str]) -> tuple[ScoringContext, ...]:
    """The tokens, most raised first, as contexts; texts that several tokens share count once, where they first are."""
    distinct = list(dict.fromkeys(ranked))
    raised = set(distinct[: round(RAISED_SHARE * len(distinct))])
    return tuple(
        ScoringContext(document=token, start=0, tokens=(token,), marked=(0,), label=token in raised)
        for token in sorted(distinct)
    )
