"""The paper's pipeline: appendix B.1 for every feature, then B.2's two steps over all sources; and scoring tests.

Failures stay counted: a feature whose call failed or whose reply could not be read has an Explanation without text,
with the reason and the raw reply. Every answer is in the journal before it is read, so nothing is paid twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.calls import LLMCall
from harness.judgements import ScoringAnswer, ScoringTest
from harness.llm.parsing import Parsed, Unparsed
from harness.records import Category, CategoryAssignment, Evidence, Explanation, Status
from harness.stages import RunContext

from .answers import JUDGEMENT_SCHEMA, Judgement
from .asking import Role, reads
from .autointerp import AutointerpConfig
from .autointerp_categories import Categoriser
from .autointerp_scoring import answer_tests
from .evidence_text import activations_text
from .prompts import EXPLAIN, EXPLAIN_MARKED, fill

NAME = "autointerp"


class Autointerp:
    """Explains, grades and categorises features by asking LLMs."""

    def __init__(self, config: AutointerpConfig) -> None:
        self._config, self._form = config, config.form()

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature; same prompt, window and count for every source. Those repaired come last."""
        todo = [e for e in evidence if e.feature not in run.done]
        asked = [e for e in todo if len(e.exemplars) >= self._config.n_min]
        run.progress.start(len(todo), "features")
        for shown in todo:
            if len(shown.exemplars) < self._config.n_min:
                run.progress.advance()
                yield _unexplained(shown)
        role = Role("explainer", self._config, run)
        prompts = [self._prompt(e, run) for e in asked]
        for index, call, answer in role.read(prompts, reads(Judgement), JUDGEMENT_SCHEMA):
            yield self._explanation(asked[index], call, answer)

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Categories from an equal sample of the sources, then one of them for every feature, and subcategories."""
        yield from Categoriser(self._config, run).categorise(explained)

    def answer(self, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext) -> Iterator[ScoringAnswer]:
        """Ratings of the contexts of scoring tests, by the explanation alone (intruders: without it)."""
        yield from answer_tests(Role("scorer", self._config, run), tests, run)

    def _prompt(self, shown: Evidence, run: RunContext) -> str:
        text = activations_text(shown.exemplars, self._form, seed=f"{run.seed}/{shown.source}/{shown.feature}")
        return fill(EXPLAIN_MARKED if self._form.mark else EXPLAIN, {"activations_str": text})

    def _explanation(self, shown: Evidence, call: LLMCall, answer: Parsed[Judgement] | Unparsed) -> Explanation:
        parsed = answer.value if isinstance(answer, Parsed) else None
        reason = answer.reason if isinstance(answer, Unparsed) else answer.value.classification_reasoning
        status: Status = "graded" if parsed else "unparsed" if call.reply else "failed"
        return Explanation(
            item=shown.feature,
            source=shown.source,
            feature=shown.feature,
            interpreter=NAME,
            explanation=parsed.explanation if parsed else None,
            grade=parsed.classification if parsed else None,
            status=status,
            reason=reason or "the judge gave no reason",
            raw=None if isinstance(answer, Parsed) else answer.raw,
            n_exemplars=min(len(shown.exemplars), self._form.n_contexts),
        )


def _unexplained(shown: Evidence) -> Explanation:
    n = len(shown.exemplars)
    return Explanation(
        item=shown.feature,
        source=shown.source,
        feature=shown.feature,
        interpreter=NAME,
        explanation=None,
        grade=None,
        status="too-few-contexts" if n else "dead",
        reason=f"too few contexts: {n}" if n else "dead: no activating context",
        n_exemplars=n,
    )
