"""The paper's pipeline: appendix B.1 for every feature, then B.2's two steps over all sources.

Failures stay counted: a feature whose call failed or whose reply could not be read has an Explanation without text,
with the reason and the raw reply. Every answer is in the journal before it is read, so nothing is paid twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from harness.calls import LLMCall, LLMRequest
from harness.errors import UsageError
from harness.llm.client import Client
from harness.llm.errors import Outage
from harness.llm.parsing import Parsed, Unparsed, parse_call
from harness.records import Category, CategoryAssignment, Evidence, Explanation
from harness.stages import RunContext

from .answers import CATEGORIES_SCHEMA, JUDGEMENT_SCHEMA, CategoriesAnswer, Judgement, chosen_id
from .autointerp import AutointerpConfig
from .evidence_text import activations_text
from .prompts import CATEGORIES, CATEGORISE, EXPLAIN, REPAIR, fill
from .sampling import equal_sample

NAME = "autointerp"
UNCATEGORISED = "uncategorised"
_LONGEST_ECHO = 4000
_NOT_AN_ID = "the reply does not name exactly one of the string_ids"


class Autointerp:
    """Explains, grades and categorises features by asking LLMs."""

    def __init__(self, config: AutointerpConfig) -> None:
        self._config = config

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature; same prompt, window and count for every source. Those repaired come last."""
        todo = [e for e in evidence if e.feature not in run.done]
        asked = [e for e in todo if len(e.exemplars) >= self._config.n_min]
        run.progress.start(len(todo), "features")
        for shown in todo:
            if len(shown.exemplars) < self._config.n_min:
                run.progress.advance()
                yield _unexplained(shown)
        role = _Role("explainer", self._config, run)
        schema = JUDGEMENT_SCHEMA if self._config.structured else None
        calls = role.ask([self._explain_prompt(e) for e in asked], schema)
        broken: list[tuple[Evidence, LLMCall, Unparsed]] = []
        for call, shown in zip(calls, asked, strict=True):
            answer = parse_call(call, Judgement)
            if isinstance(answer, Unparsed) and self._config.repair_turns and call.status == "ok":
                broken.append((shown, call, answer))
            else:
                yield self._explanation(shown, answer)
        repaired = role.again([(call, answer.reason) for _, call, answer in broken])
        for call, (shown, _, _) in zip(repaired, broken, strict=True):
            yield self._explanation(shown, parse_call(call, Judgement))

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Step 1: categories from an equal sample of the sources. Step 2: one of them for every feature."""
        answer = self._categories(explained, run)
        categories = answer.value.categories if isinstance(answer, Parsed) else ()
        for c in categories:
            category = Category(
                item=f"category:{c.string_id}",
                category=c.string_id,
                name=c.name,
                definition=c.definition,
                examples=c.examples,
            )
            if category.item not in run.done:
                yield category
        todo = [(x, e) for x, e in explained if f"{x.source}/{x.feature}" not in run.done]
        run.progress.start(len(todo), "features")
        ids = {c.string_id for c in categories}
        listed = "\n".join(f"- {c.string_id}: {c.name}. {c.definition}" for c in categories)
        asked = [pair for pair in todo if ids and pair[0].explanation is not None]
        for explanation, _ in todo:
            reason = f"no explanation: {explanation.reason}" if explanation.explanation is None else None
            if reason is None and isinstance(answer, Unparsed):
                reason = f"no categories: {answer.reason}"
            if reason is not None:
                run.progress.advance()
                yield _assignment(explanation, None, reason)
        role = _Role("categoriser", self._config, run)
        calls = role.ask([self._categorise_prompt(x, e, listed) for x, e in asked])
        broken: list[tuple[Explanation, LLMCall]] = []
        for call, (explanation, _) in zip(calls, asked, strict=True):
            chosen = _choose(explanation, call, ids)
            if chosen.category == UNCATEGORISED and self._config.repair_turns and call.status == "ok":
                broken.append((explanation, call))
            else:
                yield chosen
        repaired = role.again([(call, _NOT_AN_ID) for _, call in broken])
        for call, (explanation, _) in zip(repaired, broken, strict=True):
            yield _choose(explanation, call, ids)

    def _explain_prompt(self, shown: Evidence) -> str:
        config = self._config
        text = activations_text(
            shown.exemplars[: config.n_contexts],
            max_tokens=config.tokens_per_context,
            min_strength=config.min_strength,
        )
        return fill(EXPLAIN, {"activations_str": text})

    def _categorise_prompt(self, explanation: Explanation, shown: Evidence, categories: str) -> str:
        config = self._config
        text = activations_text(
            shown.exemplars[: config.n_category_examples],
            max_tokens=config.tokens_per_context,
            min_strength=config.min_strength,
        )
        values = {
            "feature.explanation": explanation.explanation or "",
            "examples_str": text,
            "categories_str": categories,
        }
        return fill(CATEGORISE, values)

    def _explanation(self, shown: Evidence, answer: Parsed[Judgement] | Unparsed) -> Explanation:
        parsed = answer.value if isinstance(answer, Parsed) else None
        reason = answer.reason if isinstance(answer, Unparsed) else answer.value.classification_reasoning
        return Explanation(
            item=shown.feature,
            source=shown.source,
            feature=shown.feature,
            interpreter=NAME,
            explanation=parsed.explanation if parsed else None,
            grade=parsed.classification if parsed else None,
            reason=reason or "the judge gave no reason",
            raw=None if parsed else answer.raw,
            n_exemplars=min(len(shown.exemplars), self._config.n_contexts),
        )

    def _categories(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Parsed[CategoriesAnswer] | Unparsed:
        config = self._config
        sample = equal_sample(explained, config.category_sources, config.n_category_explanations, run.seed)
        if not sample:
            return Unparsed("no feature has an explanation", "")
        listed = "\n".join(f"- {' '.join(str(x.explanation).split())}" for x, _ in sample)
        run.progress.start(1, "categories")
        role = _Role("categories", config, run)
        schema = CATEGORIES_SCHEMA if config.structured else None
        (call,) = role.ask([fill(CATEGORIES, {"feature_list": listed})], schema)
        answer = parse_call(call, CategoriesAnswer)
        if isinstance(answer, Unparsed) and config.repair_turns and call.status == "ok":
            (call,) = role.again([(call, answer.reason)])
            answer = parse_call(call, CategoriesAnswer)
        if call.status == "failed":
            # every feature depends on this call: the step is not done until it is answered
            raise Outage(call.provider, 1, str(call.error))
        return answer


class _Role:
    """Asks the study's LLM for one role; progress advances with every request that is answered."""

    def __init__(self, name: str, config: AutointerpConfig, run: RunContext) -> None:
        if run.provider is None or run.calls is None:
            raise UsageError(f"{NAME} asks LLMs: name one with --provider NAME:MODEL, or under providers in the roster")
        provider, self._model = run.provider(name)
        self._config, self._progress = config, run.progress
        self._client = Client(
            provider,
            run.calls,
            name,
            concurrency=config.concurrency,
            max_attempts=config.max_attempts,
            timeout_s=config.timeout_s,
            max_calls=config.max_calls,
            rng=random.Random(run.seed),
        )

    def ask(self, prompts: Sequence[str], schema: dict[str, Any] | None = None) -> Iterator[LLMCall]:
        """One call per prompt, in order."""
        requests = [
            LLMRequest(
                model=self._model,
                user=prompt,
                max_tokens=self._config.max_tokens,
                temperature=self._config.temperature,
                json_schema=schema,
            )
            for prompt in prompts
        ]
        return self._client.run(requests, on_call=lambda call: self._progress.advance())

    def again(self, failed: Sequence[tuple[LLMCall, str]]) -> Iterator[LLMCall]:
        """The one repair turn: each request again, with the reply to it and what was wrong with that."""
        requests = []
        for call, reason in failed:
            reply = call.reply.text[:_LONGEST_ECHO] if call.reply else ""
            prompt = fill(REPAIR, {"prompt": call.request.user, "reason": reason, "reply": reply})
            requests.append(call.request.model_copy(update={"user": prompt}))
        return self._client.run(requests)


def _unexplained(shown: Evidence) -> Explanation:
    n = len(shown.exemplars)
    return Explanation(
        item=shown.feature,
        source=shown.source,
        feature=shown.feature,
        interpreter=NAME,
        explanation=None,
        grade=None,
        reason=f"too few contexts: {n}" if n else "dead: no activating context",
        n_exemplars=n,
    )


def _choose(explanation: Explanation, call: LLMCall, ids: set[str]) -> CategoryAssignment:
    if call.reply is None:
        return _assignment(explanation, None, f"call failed: {call.error}")
    category = chosen_id(call.reply.text, ids)
    return _assignment(explanation, category, None if category else f"{call.reply.text[:80]!r}: {_NOT_AN_ID}")


def _assignment(explanation: Explanation, category: str | None, reason: str | None) -> CategoryAssignment:
    return CategoryAssignment(
        item=f"{explanation.source}/{explanation.feature}",
        source=explanation.source,
        feature=explanation.feature,
        category=category or UNCATEGORISED,
        reason=reason,
    )
