"""Scoring tests by LLM: delphi's detection, fuzzing and intruder tasks, and simulation, with ratings from 0 to 10.

delphi (EleutherAI, "Automatically interpreting millions of features in large language models") asks for 0 or 1; a
rating gives the same answer at 5 and a ROC curve from providers that return no token probabilities. For the same reason
a simulation is one reply with a strength per token, where Bills et al. (2023) read the probabilities of the digits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from harness.contract.context import RunContext
from harness.llm.parsing import Unparsed, parse_call
from harness.records import Explanation, LLMCall, ScoringAnswer, ScoringTest

from ..answers import RATINGS_SCHEMA, RatingsAnswer
from .asking import Role
from .evidence_text import marked_text
from .prompts import DETECTION, FUZZING, INTRUDER, OUTPUT, SIMULATION, fill

_PROMPTS = {
    "detection": DETECTION, "fuzzing": FUZZING, "intruder": INTRUDER, "simulation": SIMULATION, "output": OUTPUT,
}  # fmt: skip


def answer_tests(
    role: Role, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext
) -> Iterator[ScoringAnswer]:
    """One answer per test, failures with their reason."""
    run.progress.start(len(tests), "scoring tests")

    def read(index: int, call: LLMCall) -> Any:
        answer = parse_call(call, RatingsAnswer)
        n = _n_ratings(tests[index][1])
        if not isinstance(answer, Unparsed) and len(answer.value.ratings) != n:
            shown = "tokens" if tests[index][1].kind in ("simulation", "output") else "examples"
            return Unparsed(f"{len(answer.value.ratings)} ratings for {n} {shown}", answer.raw)
        return answer

    for index, _, answer in role.read([_prompt(x, test) for x, test in tests], read, RATINGS_SCHEMA):
        item = tests[index][1].item
        if isinstance(answer, Unparsed):
            yield ScoringAnswer(item=item, ratings=None, reason=answer.reason)
        else:
            yield ScoringAnswer(item=item, ratings=tuple(rating / 10 for rating in answer.value.ratings))


def _n_ratings(test: ScoringTest) -> int:
    """One per context; one per token of a simulation's only context."""
    return len(test.contexts[0].tokens) if test.kind == "simulation" else len(test.contexts)


def _prompt(explanation: Explanation, test: ScoringTest) -> str:
    if test.kind in ("simulation", "output"):
        tokens = [token for context in test.contexts for token in context.tokens]
        examples = "\n".join(f"{i}. {json.dumps(t, ensure_ascii=False)}" for i, t in enumerate(tokens, start=1))
    else:
        texts = [marked_text(c.tokens, c.marked) for c in test.contexts]
        examples = "\n\n".join(f"Example {i}:\n{text}" for i, text in enumerate(texts, start=1))
    values: dict[str, str] = defaultdict(
        str, explanation=explanation.explanation or "", n=str(_n_ratings(test)), examples_str=examples
    )
    return fill(_PROMPTS[test.kind], values)
