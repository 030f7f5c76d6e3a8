"""The lexical interpreter: the rule that tells a feature's contexts from chance, and covers them.

Grades follow appendix B.1. 0: one token, or one class next to one certain token (`digits after '='`), covers the
contexts. 1: a class, a few tokens of one class, or a neighbour does. 2: no one rule does: the explanation is then up to
three rules, each of what the others leave. The rule is found among the highest contexts, which alone give `grade_top`.
For `grade` it has to cover the sample over all strengths with them: its coverage is the mean of its coverage of both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

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

from ..sampling import is_latent
from . import LexicalConfig
from .background import Background
from .rule_masks import RuleMasks
from .rules import Place, Rule, occurrence_of
from .scoring import answer, written
from .search import Contexts, Found, Search
from .token_classes import CLASSES, INDEX, ROLES, Token, classify

NAME = "lexical"
UNCATEGORISED = "uncategorised"
_MOST_PARTS = 3
_MOST_WORDS = 10


class Lexical(Interpreter, Scorer, RuleReader):
    """Explains, grades and categorises features by rules about tokens."""

    def __init__(self, config: LexicalConfig) -> None:
        self._config = config
        self._last: tuple[frozenset[tuple[str, int, int]], Background] | None = None

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature; chance is counted over the contexts of all of `evidence`."""
        run.progress.start(len(evidence), "features")
        search = Search(self._background(evidence), self._config.min_lift)
        for feature in evidence:
            if feature.feature not in run.done:
                yield self._explain(feature, search)
            run.progress.advance()

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Every role that a feature has, in the order of `ROLES`; then one role per feature.

        Latents get a subcategory too: the class of the tokens that lead.
        """
        background = self._background([e for _, e in explained])
        roles = [_role(x, e, background, self._config.min_lift) for x, e in explained]
        texts: dict[tuple[str, str], list[str]] = defaultdict(list)
        below: list[str | None] = []
        for (explanation, evidence), role in zip(explained, roles, strict=True):
            divided = role in ROLES and role != "mixed" and is_latent(evidence)
            below.append(_leading_class(_contexts_of(evidence.exemplars)) if divided else None)
            if role in ROLES:
                texts[role, ""].append(str(explanation.explanation))
                texts[role, below[-1] or ""].append(str(explanation.explanation))
        yield from (c for c in _categories(texts) if c.item not in run.done)
        run.progress.start(len(explained), "features")
        for (explanation, _), role, class_ in zip(explained, roles, below, strict=True):
            item = f"{explanation.source}/{explanation.feature}"
            if item not in run.done:
                known = role in ROLES
                yield CategoryAssignment(
                    item=item,
                    source=explanation.source,
                    feature=explanation.feature,
                    category=role,
                    reason=None if known else f"no explanation: {explanation.reason}",
                    subcategory=class_,
                )
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

    def _background(self, evidence: Sequence[Evidence]) -> Background:
        """Chance over all contexts. Cached, because the same contexts are graded several times."""
        windows = frozenset((x.document, x.start, len(x.tokens)) for e in evidence for x in e.exemplars)
        if self._last is None or self._last[0] != windows:
            self._last = (windows, Background(evidence, self._config.background_tokens))
        return self._last[1]

    def _explain(self, evidence: Evidence, search: Search) -> Explanation:
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
            found = search.best(contexts)
            whole = self._whole(found, contexts)
            if whole is None:
                rules = self._parts(found, contexts, search)
                text, grade_top, reason = _mixture(rules), 2, self._why_mixed(found, n)
            else:
                rule = self._named(whole, contexts)
                text, grade_top, rules = rule.phrase(), _grade(whole.rule), [rule]
                reason = f"{int(whole.holds.sum())} of {n} exemplars; expected {100 * whole.chance:.2g} % by chance"
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
            rule=None if grade_top is None else written(rules),
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
        covered = f"{int(sample.holds(rule).sum())} of {len(sample.occurrences)} contexts of all strengths"
        return {"grade": grade_top if both >= self._config.coverage else 2, "reason": f"{reason}; {covered}"}

    def _whole(self, found: Sequence[Found], contexts: Contexts) -> Found | None:
        """The best rule that covers the contexts with one idea; one token before all else, since that is grade 0."""
        covering = [
            f
            for f in found
            if f.coverage >= self._config.coverage
            and f.lift >= self._config.min_lift
            and _words(f.rule.phrase()) <= _MOST_WORDS
        ]
        one = [f for f in covering if f.rule.target and len(f.rule.target.tokens) == 1]
        unlike = False
        for rule in one + covering:
            target = rule.rule.target
            # a few words that have nothing in common are not explained by being words
            if self._of_one_idea(rule, contexts) and not (unlike and target and target.class_ in _WITHOUT_IDEA):
                return rule
            unlike = unlike or (target is not None and len(target.tokens) > 1)
        return None

    def _of_one_idea(self, found: Found, contexts: Contexts) -> bool:
        """Whether the tokens of every set have a class in common."""
        held = [o for o, holds in zip(contexts.occurrences, found.holds, strict=True) if holds]
        return all(
            place is None or len(place.tokens) < 2 or _alike([getattr(o, side) for o in held])
            for side, place in vars(found.rule).items()
        )

    def _named(self, found: Found, contexts: Contexts) -> Rule:
        """The rule, saying what its tokens are: the class of those named, or of those that stand in a free place."""
        target, held = found.rule.target, found.holds
        own = Counter(classify(o.target) for o, holds in zip(contexts.occurrences, held, strict=True) if holds)
        class_, n = own.most_common(1)[0]
        if target is None and class_ not in _WITHOUT_IDEA:
            named = replace(found.rule, target=Place(class_=class_))
            return named if contexts.coverage(named) >= self._config.coverage else found.rule
        if target is not None and target.tokens and n == held.sum():
            return replace(found.rule, target=Place(target.tokens, class_))
        return found.rule

    def _parts(self, found: Sequence[Found], contexts: Contexts, search: Search) -> list[Rule]:
        """Rules of a mixture: the best one, the best one of what it leaves, and so on, while they can be said."""
        parts: list[Rule] = []
        left = contexts
        while found and len(parts) < _MOST_PARTS:
            said = next((f.rule for f in found if _words(_mixture([*parts, f.rule])) <= _MOST_WORDS), None)
            if said is None:
                break
            parts.append(said)
            left = left.without(said)
            found = search.best(left) if len(left.occurrences) >= self._config.n_min else []
        return parts

    def _why_mixed(self, found: Sequence[Found], n: int) -> str:
        best = max(found, key=lambda f: f.coverage, default=None)
        most = f"{best.rule.phrase()} covers {int(best.holds.sum())}" if best else "nothing is above chance"
        return f"no rule covers {self._config.coverage:.0%} of {n} exemplars; {most}"


_WITHOUT_IDEA = {"word", "mixed", "capital", "start", "continuation", "function"}
"""Classes so wide that a few of their tokens have nothing in common to name."""


def _alike(tokens: Sequence[Token]) -> bool:
    """Whether tokens are of one class that says what they have in common."""
    own = {classify(token) for token in tokens}
    return len(own) == 1 and own.isdisjoint(_WITHOUT_IDEA)


def _categories(texts: dict[tuple[str, str], list[str]]) -> Iterator[Category]:
    """The roles, and then the classes that latents of each lead with; `texts` are explanations by (role, class)."""
    for role, (name, definition) in ROLES.items():
        if (role, "") in texts:
            examples = tuple(dict.fromkeys(texts[role, ""]))[:5]
            yield Category(item=f"category:{role}", category=role, name=name, definition=definition, examples=examples)
    for role, class_ in sorted(key for key in texts if key[1]):
        plural = CLASSES[INDEX[class_]].plural
        yield Category(
            item=f"category:{role}::{class_}",
            category=class_,
            parent=role,
            name=plural[0].upper() + plural[1:],
            definition=f"Latents that fire mostly on {plural}.",
            examples=tuple(dict.fromkeys(texts[role, class_]))[:5],
        )


def _role(explanation: Explanation, evidence: Evidence, background: Background, min_lift: float) -> str:
    """The functional role of a feature: that of the classes of its tokens which hold most of the activation.

    Where no rule covers its contexts, the role has to be there more often than by chance, too; else it is `mixed`.
    """
    if explanation.explanation is None:
        return UNCATEGORISED
    contexts = _contexts_of(evidence.exemplars)
    weight: dict[str, float] = defaultdict(float)
    for occurrence, own in zip(contexts.occurrences, contexts.weights.tolist(), strict=True):
        weight[CLASSES[INDEX[classify(occurrence.target)]].role] += own
    leading = max(sorted(weight), key=weight.__getitem__)
    clear = explanation.grade_top != 2 or weight[leading] >= min_lift * background.share_of_role(leading)
    return leading if weight[leading] > 0.5 and clear else "mixed"


def _contexts_of(exemplars: Sequence[Exemplar]) -> Contexts:
    weights = np.array([max(e.activations[e.target], 0.0) for e in exemplars])
    total = weights.sum()
    shares = weights / total if total > 0 else np.full(len(weights), 1 / max(1, len(weights)))
    return Contexts(tuple(occurrence_of(e) for e in exemplars), shares)


def _grade(rule: Rule) -> Grade:
    if rule.target is None:
        return 1
    if rule.target.tokens:
        return 0 if len(rule.target.tokens) == 1 else 1
    certain = any(place is not None and len(place.tokens) == 1 for place in (rule.previous, rule.next))
    return 0 if certain else 1


def _mixture(parts: Sequence[Rule]) -> str:
    return "mixed: " + (", ".join(part.phrase() for part in parts) or "no token or neighbour in common")


def _words(text: str) -> int:
    return len(text.split())


def _leading_class(contexts: Contexts) -> str:
    weight: dict[str, float] = defaultdict(float)
    for occurrence, own in zip(contexts.occurrences, contexts.weights.tolist(), strict=True):
        weight[classify(occurrence.target)] += own
    return max(sorted(weight), key=weight.__getitem__)
