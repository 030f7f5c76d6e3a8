"""The search for a rule that tells contexts from chance, in nats.

A rule that holds on a share q of n contexts and on a share p of all tokens is worth n KL(q || p) nats, less what it
takes to write it down: the logarithm of the number of classes and distinct tokens, for each class and token in it
(minimum description length; Rissanen 1978). So a rule is as special as the contexts allow, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .background import Background
from .rules import SIDES, Occurrence, Place, Rule
from .token_classes import CLASSES, classes_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_MOST_TOKENS = 6
"""In a set, so that it can be said in ten words."""
_TOKENS_TRIED = 8
_KEPT = 12
"""Rules that are tried with another place, and pairs of them that are counted: the best by what their parts promise."""


@dataclass(frozen=True)
class Contexts:
    """A feature's contexts: occurrences, and their activations as weights that sum to 1."""

    occurrences: tuple[Occurrence, ...]
    weights: Float[np.ndarray, " context"]

    def holds(self, rule: Rule) -> Bool[np.ndarray, " context"]:
        """On which of them the rule holds."""
        return np.array([rule.holds(o) for o in self.occurrences], dtype=bool)

    def coverage(self, rule: Rule) -> float:
        """Share of the contexts and share of the activation that the rule covers: the smaller of the two."""
        held = self.holds(rule)
        return float(min(self.weights[held].sum(), held.mean()))

    def without(self, rule: Rule) -> Contexts:
        """Those on which the rule does not hold."""
        left = ~self.holds(rule)
        weights = self.weights[left]
        own = tuple(o for o, kept in zip(self.occurrences, left, strict=True) if kept)
        return Contexts(own, weights / weights.sum() if weights.sum() > 0 else np.full(len(own), 1 / max(1, len(own))))


class Found(NamedTuple):
    """A rule with what it is worth.

    Attributes:
        rule: the rule.
        gain: nats.
        coverage: of the contexts.
        chance: share of all tokens.
        holds: on which of the contexts.
    """

    rule: Rule
    gain: float
    coverage: float
    chance: float
    holds: Bool[np.ndarray, " context"]

    @property
    def lift(self) -> float:
        """How much more often than by chance it holds."""
        return self.coverage / self.chance


class Search:
    """Searches rules for one feature after the other, against one background."""

    def __init__(self, background: Background, min_lift: float) -> None:
        self._background, self._min_lift = background, min_lift
        self._cost_each = math.log(len(CLASSES) + background.n_words)

    def best(self, contexts: Contexts) -> list[Found]:
        """Rules whose every class has the lift that is asked for, best first; those that are worth nothing left out."""
        singles = {side: list(self._singles(contexts, side)) for side in SIDES}
        found = [f for own in singles.values() for f in own]
        level = found
        for _ in SIDES[1:]:
            level = self._narrowed(level, singles, contexts)
            found += level
        return sorted((f for f in found if f.gain > 0), key=lambda f: (-f.gain, f.rule.phrase()))

    def _singles(self, contexts: Contexts, side: str) -> Iterator[Found]:
        """One place fixed: to a class, a token, or a few tokens by their lift."""
        tokens = [getattr(o, side) for o in contexts.occurrences]
        member = np.array([classes_of(t) if t else (False,) * len(CLASSES) for t in tokens], dtype=bool)
        for i in np.flatnonzero(member.sum(0) >= 2):
            found = self._found(Rule(**{side: Place(class_=CLASSES[i].name)}), member[:, i], contexts)
            if found.lift >= self._min_lift:
                yield found
        texts = np.array([t.text if t else "" for t in tokens], dtype=object)
        one = []
        for text in dict.fromkeys(texts):
            if text and (held := texts == text).sum() >= 2:
                one.append(self._found(Rule(**{side: Place((text,))}), held.astype(bool), contexts))
        one = [f for f in one if f.lift >= self._min_lift]
        one.sort(key=lambda f: (-f.coverage * math.log(f.lift), f.rule.phrase()))
        yield from one[:_TOKENS_TRIED]
        for n in range(2, min(_MOST_TOKENS, len(one)) + 1):
            union = Place(tuple(getattr(f.rule, side).tokens[0] for f in one[:n]))
            yield self._found(Rule(**{side: union}), np.logical_or.reduce([f.holds for f in one[:n]]), contexts)

    def _narrowed(self, level: list[Found], singles: dict[str, list[Found]], contexts: Contexts) -> list[Found]:
        """The best rules with one more place fixed, where that is worth more."""
        kept = sorted(level, key=lambda f: -f.gain)[:_KEPT]
        pairs: list[tuple[float, int, Found, str, Found, Bool[np.ndarray, " context"]]] = []
        for one in kept:
            for side in SIDES:
                if getattr(one.rule, side) is not None or not singles[side]:
                    continue
                held = one.holds & np.stack([f.holds for f in singles[side]])
                shares = np.minimum(held @ contexts.weights, held.mean(1))
                for i, other in enumerate(singles[side]):
                    promised = _nats(shares[i], one.chance * other.chance) * len(held[i]) - self._cost(other.rule)
                    pairs.append((promised - self._cost(one.rule), len(pairs), one, side, other, held[i]))
        pairs.sort(key=lambda pair: pair[:2], reverse=True)
        found = {}
        for _, _, one, side, other, held_by_both in pairs[:_KEPT]:
            rule = replace(one.rule, **{side: getattr(other.rule, side)})
            if rule not in found:
                both = self._found(rule, held_by_both, contexts)
                if both.gain > one.gain:
                    found[rule] = both
        return list(found.values())

    def _found(self, rule: Rule, holds: Bool[np.ndarray, " context"], contexts: Contexts) -> Found:
        coverage = float(min(contexts.weights[holds].sum(), holds.mean()))
        chance = self._chance(rule)
        gain = len(holds) * _nats(coverage, chance) - self._cost(rule)
        return Found(rule, gain, coverage, chance, holds)

    def _chance(self, rule: Rule) -> float:
        """Share of all tokens; a rule that holds on none of them still does by some chance."""
        return max(self._background.count(rule), 0.5) / max(1, self._background.n_tokens)

    def _cost(self, rule: Rule) -> float:
        return self._cost_each * sum(max(1, len(place.tokens)) for place in vars(rule).values() if place is not None)


def _nats(q: float, p: float) -> float:
    """KL divergence of a coin with share q from one with share p; 0 where q is no larger."""
    if q <= p:
        return 0.0
    rest = (1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0
    return q * math.log(q / p) + rest
