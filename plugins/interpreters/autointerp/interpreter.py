"""The paper's pipeline: appendix B.1 for every feature, then B.2's two steps over all sources; and scoring tests.

Failures stay counted: a feature whose call failed or whose reply could not be read has an Explanation without text,
with the reason and the raw reply. Every answer is in the journal before it is read, so nothing is paid twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.contract.context import RunContext
from harness.contract.stages import Interpreter, Scorer
from harness.llm.parsing import Parsed
from harness.records import (
    JUDGE,
    Category,
    CategoryAssignment,
    Evidence,
    Explanation,
    ScoringAnswer,
    ScoringTest,
    Status,
)

from ..answers import GRADE_SCHEMA, JUDGEMENT_SCHEMA, Grade, Judgement
from . import AutointerpConfig, prompts
from .asking import Reply, Role, reads
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

        `grade_top` is the one in the explainer's reply, unless the study names a judge: then it is the judge's. `grade`
        is asked for besides, of the judge or the explainer, with contexts of all strengths.
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
        explained: Iterator[tuple[int, Explanation]] = (
            (reply.place, self._explanation(asked[reply.place], reply)) for reply in replies
        )
        if JUDGE in run.roles:
            explained = self._judged_top(list(explained), texts, run)
        if not self._config.grades_both:
            yield from (_top_only(x, f"evidence={self._config.evidence} has the highest alone") for _, x in explained)
            return
        yield from self._judged_both([(asked[place], x) for place, x in explained], run)

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Categories from an equal sample of the sources, then one of them for every feature, and subcategories."""
        yield from Categoriser(self._config, run).categorise(explained)

    def answer(self, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext) -> Iterator[ScoringAnswer]:
        """Ratings of the contexts of scoring tests, by the explanation alone (intruders: without it)."""
        yield from answer_tests(Role("scorer", self._config, run), tests, run)

    def _judged_top(
        self, explained: Sequence[tuple[int, Explanation]], texts: Sequence[str], run: RunContext
    ) -> Iterator[tuple[int, Explanation]]:
        """The same, `grade_top` by the judge: it sees the text that the explainer saw, and the explanation."""
        asked = [(place, x) for place, x in explained if x.explanation is not None]
        yield from ((place, x) for place, x in explained if x.explanation is None)
        template = prompts.JUDGE_MARKED if self._form.mark else prompts.JUDGE
        for i, reply in self._grades([(x, texts[place]) for place, x in asked], template, JUDGE, run):
            yield asked[i][0], asked[i][1].model_copy(update=_graded_top(reply))

    def _judged_both(self, explained: Sequence[tuple[Evidence, Explanation]], run: RunContext) -> Iterator[Explanation]:
        """The same with `grade`: by as many of the highest contexts as were sampled over all strengths, and these."""
        asked = []
        for feature, x in explained:
            if x.explanation is None:
                yield x
            elif not feature.sampled:
                yield _top_only(x, "there are no contexts of all strengths (features.sampled=0)")
            else:
                asked.append((x, self._both(feature)))
        role = JUDGE if JUDGE in run.roles else "explainer"
        for i, reply in self._grades(asked, prompts.JUDGE_BOTH, role, run):
            yield asked[i][0].model_copy(update=_graded(reply))

    def _grades(
        self, asked: Sequence[tuple[Explanation, str]], template: str, role: str, run: RunContext
    ) -> Iterator[tuple[int, Reply]]:
        """(place, reply) per explanation and the contexts that it is held against."""
        run.progress.start(len(asked), "grades")
        filled = [prompts.fill(template, {"explanation": x.explanation or "", "activations_str": t}) for x, t in asked]
        replies = Role(role, self._config, run).read(filled, reads(Grade), GRADE_SCHEMA)
        return ((reply.place, reply) for reply in replies)

    def _both(self, feature: Evidence) -> str:
        """As many of the highest contexts as there are sampled ones, in their order, and then these."""
        n = len(feature.sampled)
        highest = sorted(feature.exemplars, key=lambda e: -e.activations[e.target])[:n]
        contexts = [*sorted(highest, key=lambda e: e.rank), *sorted(feature.sampled, key=lambda e: e.rank)]
        numbered = [e.model_copy(update={"rank": rank}) for rank, e in enumerate(contexts)]
        return activations_text(numbered, replace(self._form, mark="own", n_contexts=2 * n, shuffled=False))

    def _activations(self, feature: Evidence, run: RunContext) -> str:
        return activations_text(feature.exemplars, self._form, seed=f"{run.seed}/{feature.source}/{feature.feature}")

    def _explanation(self, feature: Evidence, reply: Reply) -> Explanation:
        answer = reply.answer
        return Explanation(
            item=feature.feature,
            source=feature.source,
            feature=feature.feature,
            interpreter=NAME,
            explanation=answer.value.explanation if isinstance(answer, Parsed) else None,
            n_exemplars=min(len(feature.exemplars), self._form.n_contexts),
            **{**_graded(reply), "grade": None, **_graded_top(reply)},
        )


def _graded(reply: Reply) -> dict[str, Any]:
    """What an Explanation says of its grade."""
    answer = reply.answer
    if isinstance(answer, Parsed):
        reason = answer.value.classification_reasoning or "the judge gave no reason"
        return {"grade": answer.value.classification, "status": "graded", "reason": reason, "raw": None}
    status: Status = "unparsed" if reply.call.reply else "failed"
    return {"grade": None, "status": status, "reason": answer.reason, "raw": answer.raw}


def _graded_top(reply: Reply) -> dict[str, Any]:
    """What it says of `grade_top`; until the second question, how this grading ended is how all of it did."""
    graded = _graded(reply)
    top = {"grade_top": graded["grade"], "reason_top": graded["reason"]}
    return top if graded["status"] == "graded" else {**graded, **top}


def _top_only(explanation: Explanation, why: str) -> Explanation:
    """An explanation that gets no second question; a failure stays one."""
    if explanation.grade_top is None:
        return explanation
    return explanation.model_copy(update={"grade": None, "status": "top-only", "reason": why, "raw": None})


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
