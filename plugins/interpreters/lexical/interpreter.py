"""The lexical interpreter: the most specific rule that covers a feature's contexts and does not do so by chance.

Grades follow appendix B.1. 0: one token, or one class next to one certain token (`digits after '='`), covers the
contexts. 1: a class, two or three tokens of one class, or one certain neighbour does. 2: nothing does. The rule is
found among the highest contexts, which alone give `grade_top`. For `grade` it has to cover the sample over all
strengths with them: its coverage is the mean of its coverage of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.contract.context import RunContext
from harness.contract.stages import Interpreter, RuleReader, Scorer, TokenMasks
from harness.records import (
    Category,
    CategoryAssignment,
    Evidence,
    Exemplar,
    Explanation,
    Grade,
    ScoringAnswer,
    ScoringTest,
    Status,
)

from ..sampling import equal_sample, is_latent
from . import LexicalConfig
from .rule_masks import RuleMasks
from .rules import Background, Occurrence, Place, Rule, occurrence_of, quoted, tail, with_neighbour
from .scoring import answer, written
from .token_classes import PLURAL, ROLE_OF, ROLES, classify

NAME = "lexical"
UNCATEGORISED = "uncategorised"
_MOST_CATEGORIES = 8


@dataclass(frozen=True)
class _Contexts:
    """A feature's contexts: occurrences and their activations as weights that sum to 1."""

    occurrences: tuple[Occurrence, ...]
    weights: tuple[float, ...]

    def hits(self, rule: Rule) -> int:
        return sum(rule.holds(o) for o in self.occurrences)

    def coverage(self, rule: Rule) -> float:
        """Share of the contexts and share of the activation that the rule covers: the smaller of the two."""
        weight = sum(w for o, w in zip(self.occurrences, self.weights, strict=True) if rule.holds(o))
        return min(weight, self.hits(rule) / len(self.occurrences))

    def ranked(self, values: Sequence[str]) -> list[str]:
        """Distinct values, most activation first; ties by name."""
        total: dict[str, float] = {}
        for value, weight in zip(values, self.weights, strict=True):
            total[value] = total.get(value, 0.0) + weight
        return sorted(total, key=lambda v: (-total[v], v))


class Lexical(Interpreter, Scorer, RuleReader):
    """Explains, grades and categorises features by rules about tokens."""

    def __init__(self, config: LexicalConfig) -> None:
        self._config = config
        self._last: tuple[frozenset[tuple[str, int, int]], Background] | None = None

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature; chance is counted over the contexts of all of `evidence`."""
        run.progress.start(len(evidence), "features")
        background = self._background(evidence)
        for feature in evidence:
            if feature.feature not in run.done:
                yield self._explain(feature, background)
            run.progress.advance()

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """The roles that occur most in an equal sample of the sources, at most eight; then one role per feature.

        Latents get a subcategory too: the class of the tokens that lead.
        """
        config = self._config
        sample = equal_sample(explained, config.category_sources, config.n_category_explanations, run.seed)
        by_role: dict[str, list[str]] = defaultdict(list)
        for explanation, evidence in sample:
            by_role[role(explanation, evidence)].append(str(explanation.explanation))
        leading = sorted(by_role, key=lambda string_id: -len(by_role[string_id]))[:_MOST_CATEGORIES]
        sampled = " and ".join(dict.fromkeys(explanation.source for explanation, _ in sample)) or "no source"
        absent = f"does not occur in the sample of {sampled} that categories were made from"
        rare = f"is not among the {_MOST_CATEGORIES} commonest roles of the sample of {sampled}"
        left_out = {string_id: rare if string_id in by_role else absent for string_id in ROLES}
        examples = {string_id: list(dict.fromkeys(by_role[string_id])) for string_id in leading}
        for string_id, (name, definition) in ROLES.items():
            item = f"category:{string_id}"
            if string_id in examples and item not in run.done:
                chosen = tuple(examples[string_id][:5])
                yield Category(item=item, category=string_id, name=name, definition=definition, examples=chosen)
        yield from _subcategories(explained, examples, run.done)
        run.progress.start(len(explained), "features")
        for explanation, evidence in explained:
            item = f"{explanation.source}/{explanation.feature}"
            if item not in run.done:
                yield self._assign(item, explanation, evidence, examples, left_out)
            run.progress.advance()

    def answer(self, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext) -> Iterator[ScoringAnswer]:
        """Ratings by the explanations' own rules."""
        run.progress.start(len(tests), "scoring tests")
        for explanation, test in tests:
            yield answer(explanation, test)
            run.progress.advance()

    def token_masks(self, rules: Sequence[str]) -> TokenMasks:
        """On which tokens of a document each rule holds."""
        return RuleMasks(rules)

    def _assign(
        self,
        item: str,
        explanation: Explanation,
        evidence: Evidence,
        roles: Collection[str],
        left_out: Mapping[str, str],
    ) -> CategoryAssignment:
        category, reason = UNCATEGORISED, f"no explanation: {explanation.reason}"
        if explanation.explanation is not None:
            category = role(explanation, evidence)
            reason = f"{category} {left_out[category]}"
        in_sample = category in roles
        divided = in_sample and is_latent(evidence) and category != "mixed"
        return CategoryAssignment(
            item=item,
            source=explanation.source,
            feature=explanation.feature,
            category=category if in_sample else UNCATEGORISED,
            reason=None if in_sample else reason,
            subcategory=_leading_class(_contexts_of(evidence.exemplars)) if divided else None,
        )

    def _background(self, evidence: Sequence[Evidence]) -> Background:
        """Chance over all contexts. Cached, because the same contexts are graded several times."""
        windows = frozenset((x.document, x.start, len(x.tokens)) for e in evidence for x in e.exemplars)
        if self._last is None or self._last[0] != windows:
            self._last = (windows, Background(evidence, self._config.background_tokens))
        return self._last[1]

    def _explain(self, evidence: Evidence, background: Background) -> Explanation:
        n = len(evidence.exemplars)
        text: str | None = None
        rules: list[Rule] = []
        grade_top: Grade | None = None
        rule: Rule | None = None
        if n == 0:
            reason = "dead: no activating context"
        elif n < self._config.n_min:
            reason = f"too few contexts: {n}, and {self._config.n_min} are needed"
        else:
            contexts = _contexts_of(evidence.exemplars)
            rule = self._rule(contexts, background)
            if rule is None:
                text, grade_top, reason = _mixture(contexts), 2, self._why_mixed(contexts)
                rules = [Rule(place) for place in _parts(contexts)]
            else:
                text, grade_top, rules = rule.phrase(), _grade(rule), [rule]
                chance = 100 * background.share(rule)
                reason = f"{contexts.hits(rule)} of {n} exemplars; expected {chance:.2g} % by chance"
        status: Status = "graded" if n >= self._config.n_min else "too-few-contexts" if n else "dead"
        graded = {"grade": None, "status": status, "reason": reason}
        if grade_top is not None:
            graded = self._on_both(evidence, rule, grade_top, reason)
        return Explanation(
            item=evidence.feature,
            source=evidence.source,
            feature=evidence.feature,
            interpreter=NAME,
            explanation=text,
            grade_top=grade_top,
            reason_top=None if grade_top is None else reason,
            rule=written(rules) if rules else None,
            n_exemplars=n,
            **graded,
        )

    def _on_both(self, evidence: Evidence, rule: Rule | None, grade_top: Grade, reason: str) -> dict[str, Any]:
        """The grade by the highest contexts and the sample: the rule's where it covers both, else 2."""
        if not evidence.sampled:
            return {"grade": None, "status": "top-only", "reason": "no contexts of all strengths (features.sampled=0)"}
        # a window that was drawn several times counts as often: it is a sample of tokens
        sample = _contexts_of([e for e in evidence.sampled for _ in range(e.n_identical)])
        if rule is None:
            return {"grade": 2, "reason": reason}
        both = (_contexts_of(evidence.exemplars).coverage(rule) + sample.coverage(rule)) / 2
        covered = f"{sample.hits(rule)} of {len(sample.occurrences)} contexts of all strengths"
        return {"grade": grade_top if both >= self._config.coverage else 2, "reason": f"{reason}; {covered}"}

    def _rule(self, contexts: _Contexts, background: Background) -> Rule | None:
        """The first base rule, most specific first, that covers the contexts and, refined, beats chance."""
        for base in self._bases(contexts, background):
            if contexts.coverage(base) < self._config.coverage:
                continue
            rule = self._refine(base, contexts, background)
            chance = background.share(rule)
            unlikely = tail(contexts.hits(rule), len(contexts.occurrences), chance) < self._config.alpha
            if unlikely and contexts.coverage(rule) >= self._config.min_lift * chance:
                return rule
        return None

    def _bases(self, contexts: _Contexts, background: Background) -> Iterator[Rule]:
        """Candidate rules: one token, a few tokens or a class, one neighbour alone."""
        tokens = contexts.ranked([o.target for o in contexts.occurrences])
        yield Rule(Place((tokens[0],)))
        of_class = self._class_base(tokens, contexts, background)
        if of_class is not None:
            yield of_class
        for side in ("previous", "next"):
            neighbours = contexts.ranked([getattr(o, side) or "" for o in contexts.occurrences])
            if neighbours[0]:
                yield with_neighbour(Rule(), side, Place((neighbours[0],)))

    def _class_base(self, tokens: Sequence[str], contexts: _Contexts, background: Background) -> Rule | None:
        """Two or three tokens of the leading class, where they cover the contexts; else the class itself."""
        class_ = contexts.ranked([classify(o.target) for o in contexts.occurrences])[0]
        members = tuple(t for t in tokens if classify(t) == class_)
        whole = Rule(Place(class_=class_))
        for n in range(2, min(3, len(members)) + 1):
            union = Rule(Place(members[:n]))
            if contexts.coverage(union) >= self._config.coverage:
                if background.count(union) >= 0.95 * background.count(whole):
                    return whole  # these tokens are all of the class that occurs: name the class
                # a few unrelated words have nothing in common to name
                return None if class_ == "word" else union
        return whole

    def _refine(self, base: Rule, contexts: _Contexts, background: Background) -> Rule:
        """Add the neighbours, at most one on each side, that narrow the rule by more than chance."""
        rule = base
        while base.target is not None:
            options = [
                (share, not place.tokens, side, narrower)
                for side in ("previous", "next")
                if getattr(rule, side) is None
                for place in _places(contexts, side)
                for narrower in [with_neighbour(rule, side, place)]
                if (share := self._narrowing(rule, narrower, contexts, background)) is not None
            ]
            if not options:
                break
            rule = min(options, key=lambda option: option[:3])[3]
        return rule

    def _narrowing(self, rule: Rule, narrower: Rule, contexts: _Contexts, background: Background) -> float | None:
        """Share of the rule's background tokens on which the narrower one holds; None where it is no improvement."""
        coverage = contexts.coverage(narrower)
        share = background.count(narrower) / max(1, background.count(rule))
        improves = coverage >= self._config.coverage and coverage >= self._config.min_narrowing * share
        if not improves or tail(contexts.hits(narrower), contexts.hits(rule), share) >= self._config.alpha:
            return None
        return share

    def _why_mixed(self, contexts: _Contexts) -> str:
        top = Rule(Place((contexts.ranked([o.target for o in contexts.occurrences])[0],)))
        return (
            f"no rule covers {self._config.coverage:.0%} of {len(contexts.occurrences)} exemplars; "
            f"the most active token covers {contexts.hits(top)}"
        )


def _subcategories(
    explained: Sequence[tuple[Explanation, Evidence]], roles: Collection[str], done: Collection[str]
) -> Iterator[Category]:
    """The classes that latents of each role lead with."""
    texts_by_class: dict[tuple[str, str], list[str]] = defaultdict(list)
    for explanation, evidence in explained:
        if explanation.explanation is not None and is_latent(evidence):
            string_id = role(explanation, evidence)
            if string_id in roles and string_id != "mixed":
                class_ = _leading_class(_contexts_of(evidence.exemplars))
                texts_by_class[string_id, class_].append(explanation.explanation)
    for (string_id, class_), texts in sorted(texts_by_class.items()):
        item = f"category:{string_id}::{class_}"
        if item not in done:
            yield Category(
                item=item,
                category=class_,
                parent=string_id,
                name=PLURAL[class_].capitalize(),
                definition=f"Latents that fire mostly on {PLURAL[class_]}.",
                examples=tuple(dict.fromkeys(texts))[:5],
            )


def role(explanation: Explanation, evidence: Evidence) -> str:
    """The functional role of an explained feature: its class's, or `mixed` where `grade_top` is 2 or no class leads."""
    contexts = _contexts_of(evidence.exemplars)
    roles = [ROLE_OF[classify(o.target)] for o in contexts.occurrences]
    leading = contexts.ranked(roles)[0] if roles else "mixed"
    weight = sum(w for r, w in zip(roles, contexts.weights, strict=True) if r == leading)
    return "mixed" if explanation.grade_top == 2 or weight < 0.5 else leading


def _contexts_of(exemplars: Sequence[Exemplar]) -> _Contexts:
    weights = [max(e.activations[e.target], 0.0) for e in exemplars]
    total = sum(weights)
    even = 1 / max(1, len(weights))
    shares = tuple(w / total if total > 0 else even for w in weights)
    return _Contexts(tuple(occurrence_of(e) for e in exemplars), shares)


def _grade(rule: Rule) -> Grade:
    if rule.target is None:
        return 1
    if rule.target.tokens:
        return 0 if len(rule.target.tokens) == 1 else 1
    certain = any(place is not None and place.tokens for place in (rule.previous, rule.next))
    return 0 if certain else 1


def _places(contexts: _Contexts, side: str) -> list[Place]:
    """The most frequent neighbour on one side, as a token and as a class."""
    neighbours = [getattr(o, side) or "" for o in contexts.occurrences]
    token = contexts.ranked(neighbours)[0]
    class_ = contexts.ranked([classify(t) if t else "" for t in neighbours])[0]
    return [*([Place((token,))] if token else []), *([Place(class_=class_)] if class_ else [])]


def _parts(contexts: _Contexts) -> list[Place]:
    """The leading classes of a mixture, or the token where one stands for its class."""
    targets = [o.target for o in contexts.occurrences]
    places = []
    for class_ in contexts.ranked([classify(t) for t in targets])[:3]:
        members = {t for t in targets if classify(t) == class_}
        places.append(Place((members.pop(),)) if len(members) == 1 else Place(class_=class_))
    return places


def _mixture(contexts: _Contexts) -> str:
    named = [quoted(place.tokens[0]) if place.tokens else PLURAL[place.class_] for place in _parts(contexts)]
    return "mixed: " + ", ".join(named)


def _leading_class(contexts: _Contexts) -> str:
    return contexts.ranked([classify(o.target) for o in contexts.occurrences])[0]
