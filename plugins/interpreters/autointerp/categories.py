"""Appendix B.2 by LLM: propose categories, put every feature into one, then latents into subcategories of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from random import Random

from harness.contract.context import RunContext
from harness.llm.errors import Outage
from harness.llm.parsing import Parsed, Unparsed, answer_text
from harness.records import Category, CategoryAssignment, Evidence, Explanation, LLMCall

from ..answers import (
    CATEGORIES_SCHEMA,
    CategoriesAnswer,
    CategoryAnswer,
    SubcategoriesAnswer,
    chosen_id,
)
from ..sampling import equal_sample, is_latent
from . import AutointerpConfig
from .asking import Role, reads
from .evidence_text import activations_text
from .prompts import CATEGORIES, CATEGORISE, SUBCATEGORIES, fill

UNCATEGORISED = "uncategorised"
_NOT_AN_ID = "the reply does not name exactly one of the string_ids"

Pair = tuple[Explanation, Evidence]


class Categoriser:
    """The steps of one categorisation."""

    def __init__(self, config: AutointerpConfig, run: RunContext) -> None:
        self._config, self._run, self._form = config, run, config.form()
        self._role = Role("categoriser", config, run)

    def categorise(self, explained: Sequence[Pair]) -> Iterator[Category | CategoryAssignment]:
        """Categories, then one assignment per feature; a feature that is stored already is left out."""
        answer = self._propose(explained)
        categories = answer.value.categories if isinstance(answer, Parsed) else ()
        yield from self._new(_record(c, None) for c in categories)
        todo = [(x, e) for x, e in explained if _item(x) not in self._run.done]
        self._run.progress.start(len(todo), "features")
        for explanation, _ in todo:
            reason = f"no explanation: {explanation.reason}" if explanation.explanation is None else None
            if reason is None and isinstance(answer, Unparsed):
                reason = f"no categories: {answer.reason}"
            if reason is not None:
                self._run.progress.advance()
                yield _assignment(explanation, None, reason)
        asked = [pair for pair in todo if categories and pair[0].explanation is not None]
        latents: dict[str, list[tuple[Explanation, Evidence, CategoryAssignment]]] = defaultdict(list)
        for index, chosen, reason in self._choose(asked, categories):
            explanation, evidence = asked[index]
            assigned = _assignment(explanation, chosen, reason)
            if chosen and self._config.subcategories and is_latent(evidence):
                latents[chosen].append((explanation, evidence, assigned))
            else:
                yield assigned
        for category in categories:
            yield from self._subdivide(category, latents[category.string_id])

    def _propose(self, explained: Sequence[Pair]) -> Parsed[CategoriesAnswer] | Unparsed:
        config = self._config
        sample = equal_sample(explained, config.category_sources, config.n_category_explanations, self._run.seed)
        if not sample:
            return Unparsed("no feature has an explanation", "")
        self._run.progress.start(1, "categories")
        role = Role("categories", config, self._run)
        prompt = fill(CATEGORIES, {"feature_list": _listed(x for x, _ in sample)})
        (reply,) = role.read([prompt], reads(CategoriesAnswer), CATEGORIES_SCHEMA)
        if reply.call.status == "failed":
            # every feature depends on this call: the step is not done until it is answered
            raise Outage(reply.call.provider, 1, str(reply.call.error))
        answer: Parsed[CategoriesAnswer] | Unparsed = reply.answer
        return answer

    def _choose(
        self, asked: Sequence[Pair], categories: Sequence[CategoryAnswer]
    ) -> Iterator[tuple[int, str | None, str | None]]:
        """For each feature: its place in `asked`, the string_id or None, and the reason where there is none."""
        ids = {c.string_id for c in categories}
        listed = "\n".join(f"- {c.string_id}: {c.name}. {c.definition}" for c in categories)

        def read(index: int, call: LLMCall) -> str | Unparsed:
            return _chosen(call, ids)

        for index, _, answer in self._role.read([self._prompt(x, e, listed) for x, e in asked], read):
            if isinstance(answer, Unparsed):
                yield index, None, answer.reason
            else:
                yield index, answer, None

    def _subdivide(
        self, category: CategoryAnswer, latents: Sequence[tuple[Explanation, Evidence, CategoryAssignment]]
    ) -> Iterator[Category | CategoryAssignment]:
        """Subcategories of one category, and one of them for each of its latents."""
        config = self._config
        if len(latents) < config.n_min_subcategorised:
            yield from (assigned for _, _, assigned in latents)  # too few to divide: no subcategory
            return
        order = sorted(range(len(latents)), key=lambda i: latents[i][0].feature)
        Random(f"{self._run.seed}/{category.string_id}").shuffle(order)
        sample = [latents[i][0] for i in order[: config.n_category_explanations]]
        values = {"name": category.name, "definition": category.definition, "feature_list": _listed(sample)}
        role = Role("categories", config, self._run)
        (reply,) = role.read([fill(SUBCATEGORIES, values)], reads(SubcategoriesAnswer), CATEGORIES_SCHEMA)
        if isinstance(reply.answer, Unparsed):
            why = f"no subcategories: {reply.answer.reason}"
            yield from (_with_subcategory(assigned, None, why) for _, _, assigned in latents)
            return
        subcategories = reply.answer.value.categories
        yield from self._new(_record(c, category.string_id) for c in subcategories)
        for index, chosen, reason in self._choose([(x, e) for x, e, _ in latents], subcategories):
            yield _with_subcategory(latents[index][2], chosen, reason)

    def _new(self, categories: Iterator[Category]) -> Iterator[Category]:
        yield from (c for c in categories if c.item not in self._run.done)

    def _prompt(self, explanation: Explanation, evidence: Evidence, categories: str) -> str:
        text = activations_text(evidence.exemplars[: self._config.n_category_examples], self._form)
        values = {
            "feature.explanation": explanation.explanation or "",
            "examples_str": text,
            "categories_str": categories,
        }
        return fill(CATEGORISE, values)


def _chosen(call: LLMCall, ids: Collection[str]) -> str | Unparsed:
    if call.reply is None:
        return Unparsed(f"call failed: {call.error}", "")
    answer = answer_text(call.reply.text, call.reply.finish_reason)
    if isinstance(answer, Unparsed):
        return answer
    category = chosen_id(answer, ids)
    return category or Unparsed(f"{call.reply.text[:80]!r}: {_NOT_AN_ID}", call.reply.text)


def _listed(explanations: Iterator[Explanation] | Sequence[Explanation]) -> str:
    return "\n".join(f"- {' '.join(str(x.explanation).split())}" for x in explanations)


def _record(c: CategoryAnswer, parent: str | None) -> Category:
    return Category(
        item=f"category:{parent}::{c.string_id}" if parent else f"category:{c.string_id}",
        category=c.string_id,
        parent=parent,
        name=c.name,
        definition=c.definition,
        examples=c.examples,
    )


def _item(explanation: Explanation) -> str:
    return f"{explanation.source}/{explanation.feature}"


def _assignment(explanation: Explanation, category: str | None, reason: str | None) -> CategoryAssignment:
    return CategoryAssignment(
        item=_item(explanation),
        source=explanation.source,
        feature=explanation.feature,
        category=category or UNCATEGORISED,
        reason=reason,
    )


def _with_subcategory(assigned: CategoryAssignment, chosen: str | None, reason: str | None) -> CategoryAssignment:
    return assigned.model_copy(update={"subcategory": chosen or UNCATEGORISED, "subcategory_reason": reason})
