"""Scoring tests by LLM: delphi's detection, fuzzing and intruder tasks, with ratings from 0 to 10.

delphi (EleutherAI, "Automatically interpreting millions of features in large language models") asks for 0 or 1; a
rating gives the same answer at 5 and a ROC curve from providers that return no token probabilities.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from harness.contract.context import RunContext
from harness.llm.parsing import Unparsed, parse_call
from harness.records import Explanation, LLMCall, ScoringAnswer, ScoringTest

from ..answers import RATINGS_SCHEMA, RatingsAnswer
from .asking import Role
from .evidence_text import marked_text
from .prompts import DETECTION, FUZZING, INTRUDER, fill

_PROMPTS = {"detection": DETECTION, "fuzzing": FUZZING, "intruder": INTRUDER}


def answer_tests(
    role: Role, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext
) -> Iterator[ScoringAnswer]:
    """One answer per test, failures with their reason."""
    run.progress.start(len(tests), "scoring tests")

    def read(index: int, call: LLMCall) -> Any:
        answer = parse_call(call, RatingsAnswer)
        n = len(tests[index][1].contexts)
        if not isinstance(answer, Unparsed) and len(answer.value.ratings) != n:
            return Unparsed(f"{len(answer.value.ratings)} ratings for {n} examples", answer.raw)
        return answer

    for index, _, answer in role.read([_prompt(x, test) for x, test in tests], read, RATINGS_SCHEMA):
        item = tests[index][1].item
        if isinstance(answer, Unparsed):
            yield ScoringAnswer(item=item, ratings=None, reason=answer.reason)
        else:
            yield ScoringAnswer(item=item, ratings=tuple(rating / 10 for rating in answer.value.ratings))


def _prompt(explanation: Explanation, test: ScoringTest) -> str:
    texts = [marked_text(c.tokens, c.marked) for c in test.contexts]
    examples = "\n\n".join(f"Example {i}:\n{text}" for i, text in enumerate(texts, start=1))
    values: dict[str, str] = defaultdict(
        str, explanation=explanation.explanation or "", n=str(len(texts)), examples_str=examples
    )
    return fill(_PROMPTS[test.kind], values)
