"""The paper's pipeline: appendix B.1 for every feature, then B.2's two steps over all sources; and scoring tests.

Failures stay counted: a feature whose call failed or whose reply could not be read has an Explanation without text,
with the reason and the raw reply. Every answer is in the journal before it is read, so nothing is paid twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.contract.context import RunContext
from harness.contract.stages import Interpreter, Scorer
from harness.llm.parsing import Parsed, Unparsed
from harness.records import (
    JUDGE,
    Category,
    CategoryAssignment,
    Evidence,
    Explanation,
    LLMCall,
    ScoringAnswer,
    ScoringTest,
    Status,
)

from ..answers import GRADE_SCHEMA, JUDGEMENT_SCHEMA, Grade, Judgement
from . import AutointerpConfig, prompts
from .asking import Role, reads
from .categories import Categoriser
from .evidence_text import activations_text
from .scoring import answer_tests

NAME = "autointerp"


class Autointerp(Interpreter, Scorer):
    """Explains, grades and categorises features by asking LLMs."""

    def __init__(self, config: AutointerpConfig) -> None:
        self._config, self._form = config, config.form()

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature; same prompt, window and count for every source. Those repaired come last.

        The grade is the one in the explainer's reply, unless the study names a judge: then it is the judge's.
        """
        todo = [e for e in evidence if e.feature not in run.done]
        asked = [e for e in todo if len(e.exemplars) >= self._config.n_min]
        run.progress.start(len(todo), "features")
        for feature in todo:
            if len(feature.exemplars) < self._config.n_min:
                run.progress.advance()
                yield _unexplained(feature)
        texts = [self._activations(e, run) for e in asked]
        template = prompts.EXPLAIN_MARKED if self._form.mark else prompts.EXPLAIN
        role = Role("explainer", self._config, run)
        replies = role.read(
            [prompts.fill(template, {"activations_str": t}) for t in texts], reads(Judgement), JUDGEMENT_SCHEMA
        )
        explained = ((reply, self._explanation(asked[reply.place], reply.call, reply.answer)) for reply in replies)
        if JUDGE in run.roles:
            yield from self._judged([(texts[reply.place], x) for reply, x in explained], run)
        else:
            yield from (x for _, x in explained)

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Categories from an equal sample of the sources, then one of them for every feature, and subcategories."""
        yield from Categoriser(self._config, run).categorise(explained)

    def answer(self, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext) -> Iterator[ScoringAnswer]:
        """Ratings of the contexts of scoring tests, by the explanation alone (intruders: without it)."""
        yield from answer_tests(Role("scorer", self._config, run), tests, run)

    def _judged(self, explained: Sequence[tuple[str, Explanation]], run: RunContext) -> Iterator[Explanation]:
        """The same explanations, graded by the judge: it sees the text that the explainer saw, and the explanation."""
        asked = [(text, x) for text, x in explained if x.explanation is not None]
        yield from (x for _, x in explained if x.explanation is None)
        run.progress.start(len(asked), "grades")
        template = prompts.JUDGE_MARKED if self._form.mark else prompts.JUDGE
        filled = [prompts.fill(template, {"explanation": x.explanation or "", "activations_str": t}) for t, x in asked]
        for reply in Role(JUDGE, self._config, run).read(filled, reads(Grade), GRADE_SCHEMA):
            yield asked[reply.place][1].model_copy(update=_graded(reply.call, reply.answer))

    def _activations(self, feature: Evidence, run: RunContext) -> str:
        return activations_text(feature.exemplars, self._form, seed=f"{run.seed}/{feature.source}/{feature.feature}")

    def _explanation(self, feature: Evidence, call: LLMCall, answer: Parsed[Judgement] | Unparsed) -> Explanation:
        return Explanation(
            item=feature.feature,
            source=feature.source,
            feature=feature.feature,
            interpreter=NAME,
            explanation=answer.value.explanation if isinstance(answer, Parsed) else None,
            n_exemplars=min(len(feature.exemplars), self._form.n_contexts),
            **_graded(call, answer),
        )


def _graded(call: LLMCall, answer: Parsed[Any] | Unparsed) -> dict[str, Any]:
    """What an Explanation says of its grade."""
    if isinstance(answer, Parsed):
        reason = answer.value.classification_reasoning or "the judge gave no reason"
        return {"grade": answer.value.classification, "status": "graded", "reason": reason, "raw": None}
    status: Status = "unparsed" if call.reply else "failed"
    return {"grade": None, "status": status, "reason": answer.reason, "raw": answer.raw}


def _unexplained(feature: Evidence) -> Explanation:
    n = len(feature.exemplars)
    return Explanation(
        item=feature.feature,
        source=feature.source,
        feature=feature.feature,
        interpreter=NAME,
        explanation=None,
        grade=None,
        status="too-few-contexts" if n else "dead",
        reason=f"too few contexts: {n}" if n else "dead: no activating context",
        n_exemplars=n,
    )
