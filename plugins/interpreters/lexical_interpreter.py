"""The lexical interpreter: the most specific rule that covers a feature's contexts and does not do so by chance.

Grades follow appendix B.1. 0: one token, or one class next to one certain token (`digits after '='`), covers the
contexts. 1: a class, two or three tokens of one class, or one certain neighbour does. 2: nothing does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.records import Category, CategoryAssignment, Evidence, Exemplar, Explanation
from harness.stages import RunContext

from .lexical import LexicalConfig
from .lexical_rules import Background, Occurrence, Place, Rule, occurrence_of, quoted, tail, with_neighbour
from .sampling import equal_sample
from .token_classes import PLURAL, ROLE_OF, ROLES, classify

NAME = "lexical"
UNCATEGORISED = "uncategorised"


@dataclass(frozen=True)
class _Shown:
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


class Lexical:
    """Explains, grades and categorises features by rules about tokens."""

    def __init__(self, config: LexicalConfig) -> None:
        self._config = config

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature; chance is counted over the contexts of all of `evidence`."""
        run.progress.start(len(evidence), "features")
        background = Background(evidence, self._config.background_tokens)
        for shown in evidence:
            if shown.feature not in run.done:
                yield self._explain(shown, background)
            run.progress.advance()

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """The roles that occur in an equal sample of the sources, then one role per feature."""
        config = self._config
        sample = equal_sample(explained, config.category_sources, config.n_category_explanations, run.seed)
        examples: dict[str, list[str]] = {}
        for explanation, shown in sample:
            texts = examples.setdefault(role(explanation, shown), [])
            if explanation.explanation not in texts:
                texts.append(str(explanation.explanation))
        for string_id, (name, definition) in ROLES.items():
            item = f"category:{string_id}"
            if string_id in examples and item not in run.done:
                chosen = tuple(examples[string_id][:5])
                yield Category(item=item, category=string_id, name=name, definition=definition, examples=chosen)
        run.progress.start(len(explained), "features")
        for explanation, shown in explained:
            item = f"{explanation.source}/{explanation.feature}"
            if item not in run.done:
                yield self._assign(item, explanation, shown, examples)
            run.progress.advance()

    def _assign(
        self, item: str, explanation: Explanation, shown: Evidence, roles: Collection[str]
    ) -> CategoryAssignment:
        category, reason = UNCATEGORISED, f"no explanation: {explanation.reason}"
        if explanation.explanation is not None:
            category = role(explanation, shown)
            reason = f"{category} does not occur in the sample that categories were made from"
        known = category in roles
        return CategoryAssignment(
            item=item,
            source=explanation.source,
            feature=explanation.feature,
            category=category if known else UNCATEGORISED,
            reason=None if known else reason,
        )

    def _explain(self, evidence: Evidence, background: Background) -> Explanation:
        n = len(evidence.exemplars)
        text: str | None = None
        grade: Literal[0, 1, 2] | None = None
        if n == 0:
            reason = "dead: no activating context"
        elif n < self._config.n_min:
            reason = f"too few contexts: {n}, and {self._config.n_min} are needed"
        else:
            shown = _shown(evidence.exemplars)
            rule = self._rule(shown, background)
            if rule is None:
                text, grade, reason = _mixture(shown), 2, self._why_mixed(shown)
            else:
                text, grade = rule.phrase(), _grade(rule)
                chance = 100 * background.share(rule)
                reason = f"{shown.hits(rule)} of {n} exemplars; expected {chance:.2g} % by chance"
        return Explanation(
            item=evidence.feature,
            source=evidence.source,
            feature=evidence.feature,
            interpreter=NAME,
            explanation=text,
            grade=grade,
            reason=reason,
            n_exemplars=n,
        )

    def _rule(self, shown: _Shown, background: Background) -> Rule | None:
        """The first base rule, most specific first, that covers the contexts and, refined, beats chance."""
        for base in self._bases(shown, background):
            if shown.coverage(base) < self._config.coverage:
                continue
            rule = self._refine(base, shown, background)
            chance = background.share(rule)
            unlikely = tail(shown.hits(rule), len(shown.occurrences), chance) < self._config.alpha
            if unlikely and shown.coverage(rule) >= self._config.min_lift * chance:
                return rule
        return None

    def _bases(self, shown: _Shown, background: Background) -> Iterator[Rule]:
        """Candidate rules: one token, a few tokens or a class, one neighbour alone."""
        tokens = shown.ranked([o.target for o in shown.occurrences])
        yield Rule(Place((tokens[0],)))
        of_class = self._class_base(tokens, shown, background)
        if of_class is not None:
            yield of_class
        for side in ("previous", "next"):
            neighbours = shown.ranked([getattr(o, side) or "" for o in shown.occurrences])
            if neighbours[0]:
                yield with_neighbour(Rule(), side, Place((neighbours[0],)))

    def _class_base(self, tokens: Sequence[str], shown: _Shown, background: Background) -> Rule | None:
        """Two or three tokens of the leading class, where they cover the contexts; else the class itself."""
        class_ = shown.ranked([classify(o.target) for o in shown.occurrences])[0]
        members = tuple(t for t in tokens if classify(t) == class_)
        whole = Rule(Place(class_=class_))
        for n in range(2, min(3, len(members)) + 1):
            union = Rule(Place(members[:n]))
            if shown.coverage(union) >= self._config.coverage:
                if background.count(union) >= 0.95 * background.count(whole):
                    return whole  # all there is of a class is that class
                # a handful of unrelated words has nothing in common that is worth a name
                return None if class_ == "word" else union
        return whole

    def _refine(self, base: Rule, shown: _Shown, background: Background) -> Rule:
        """Add the neighbours, at most one on each side, that narrow the rule by more than chance."""
        rule = base
        while base.target is not None:
            options = [
                (share, not place.tokens, side, narrower)
                for side in ("previous", "next")
                if getattr(rule, side) is None
                for place in _places(shown, side)
                for narrower in [with_neighbour(rule, side, place)]
                if (share := self._narrowing(rule, narrower, shown, background)) is not None
            ]
            if not options:
                break
            rule = min(options, key=lambda option: option[:3])[3]
        return rule

    def _narrowing(self, rule: Rule, narrower: Rule, shown: _Shown, background: Background) -> float | None:
        """Share of the rule's background tokens on which the narrower one holds; None where it is no improvement."""
        coverage = shown.coverage(narrower)
        share = background.count(narrower) / max(1, background.count(rule))
        improves = coverage >= self._config.coverage and coverage >= self._config.min_narrowing * share
        if not improves or tail(shown.hits(narrower), shown.hits(rule), share) >= self._config.alpha:
            return None
        return share

    def _why_mixed(self, shown: _Shown) -> str:
        top = Rule(Place((shown.ranked([o.target for o in shown.occurrences])[0],)))
        return (
            f"no rule covers {self._config.coverage:.0%} of {len(shown.occurrences)} exemplars; the most active token "
            f"covers {shown.hits(top)}"
        )


def role(explanation: Explanation, evidence: Evidence) -> str:
    """The functional role of an explained feature: its class's, or `mixed` where the grade is 2 or no class leads."""
    shown = _shown(evidence.exemplars)
    roles = [ROLE_OF[classify(o.target)] for o in shown.occurrences]
    leading = shown.ranked(roles)[0] if roles else "mixed"
    weight = sum(w for r, w in zip(roles, shown.weights, strict=True) if r == leading)
    return "mixed" if explanation.grade == 2 or weight < 0.5 else leading


def _shown(exemplars: Sequence[Exemplar]) -> _Shown:
    weights = [max(e.activations[e.target], 0.0) for e in exemplars]
    total = sum(weights)
    even = 1 / max(1, len(weights))
    return _Shown(tuple(occurrence_of(e) for e in exemplars), tuple(w / total if total > 0 else even for w in weights))


def _grade(rule: Rule) -> Literal[0, 1]:
    if rule.target is None:
        return 1
    if rule.target.tokens:
        return 0 if len(rule.target.tokens) == 1 else 1
    certain = any(place is not None and place.tokens for place in (rule.previous, rule.next))
    return 0 if certain else 1


def _places(shown: _Shown, side: str) -> list[Place]:
    """The most frequent neighbour on one side, as a token and as a class."""
    neighbours = [getattr(o, side) or "" for o in shown.occurrences]
    token = shown.ranked(neighbours)[0]
    class_ = shown.ranked([classify(t) if t else "" for t in neighbours])[0]
    return [*([Place((token,))] if token else []), *([Place(class_=class_)] if class_ else [])]


def _mixture(shown: _Shown) -> str:
    """The leading classes, or the token where one stands for its class."""
    targets = [o.target for o in shown.occurrences]
    parts = []
    for class_ in shown.ranked([classify(t) for t in targets])[:3]:
        members = {t for t in targets if classify(t) == class_}
        parts.append(quoted(members.pop()) if len(members) == 1 else PLURAL[class_])
    return "mixed: " + ", ".join(parts)
