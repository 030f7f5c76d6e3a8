"""Rules about a token and its neighbours, and how often they hold by chance.

A rule is a pattern over (target, previous, next). Each place is fixed to a token, to a few tokens, to a class, or free.
Spaces between a token and its neighbour are skipped: tokenizers that split digits write `= 7` as `=`, ` `, `7`.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.records import Evidence, Exemplar

from .token_classes import PLURAL, SINGULAR, classify


class Place(NamedTuple):
    """What one place of a rule must be: one of `tokens`, or any token of `class_`."""

    tokens: tuple[str, ...] = ()
    class_: str = ""

    def holds(self, token: str | None) -> bool:
        """Whether a token is allowed here; an unknown neighbour never is."""
        if token is None:
            return False
        return token in self.tokens if self.tokens else classify(token) == self.class_


class Occurrence(NamedTuple):
    """A token with its neighbours; None where the window ends."""

    target: str
    previous: str | None
    next: str | None


@dataclass(frozen=True)
class Rule:
    """A pattern; None is a free place."""

    target: Place | None = None
    previous: Place | None = None
    next: Place | None = None

    def holds(self, occurrence: Occurrence) -> bool:
        """Whether all places hold."""
        return (
            (self.target is None or self.target.holds(occurrence.target))
            and (self.previous is None or self.previous.holds(occurrence.previous))
            and (self.next is None or self.next.holds(occurrence.next))
        )

    def phrase(self) -> str:
        """The rule in at most ten words."""
        target = "tokens" if self.target is None else _target_phrase(self.target)
        before, after = (None if p is None else _neighbour_phrase(p) for p in (self.previous, self.next))
        if before and after:
            return f"{target} between {before} and {after}"
        return f"{target} after {before}" if before else f"{target} before {after}" if after else target


class Background:
    """How often rules hold by chance: over all tokens of all contexts, each token counted once."""

    def __init__(self, evidence: Iterable[Evidence], max_tokens: int) -> None:
        windows: dict[str, list[Exemplar]] = defaultdict(list)
        for feature in evidence:
            for exemplar in feature.exemplars:
                windows[exemplar.document].append(exemplar)
        counts: Counter[Occurrence] = Counter()
        # in the order of a hash: a sample of documents that depends on neither their order nor a seed
        for document in sorted(windows, key=lambda d: (zlib.crc32(d.encode()), d)):
            if counts.total() >= max_tokens:
                break
            tokens: dict[int, str] = {}
            for exemplar in windows[document]:
                for i, token in enumerate(exemplar.tokens, exemplar.start):
                    if i not in tokens:  # windows overlap many times
                        tokens[i] = _bare(token) if token else normal(exemplar.tokens, i - exemplar.start)
            counts.update(_occurrence(tokens, position) for position in tokens)
        self.n_tokens = counts.total()
        self._counts = counts
        self._by_target: dict[str, list[tuple[Occurrence, int]]] = defaultdict(list)
        self._by_class: dict[str, list[tuple[Occurrence, int]]] = defaultdict(list)
        for occurrence, n in counts.items():
            self._by_target[occurrence.target].append((occurrence, n))
            self._by_class[classify(occurrence.target)].append((occurrence, n))
        self._cache: dict[Rule, int] = {}

    def count(self, rule: Rule) -> int:
        """Tokens on which the rule holds."""
        if rule not in self._cache:
            groups: Iterable[tuple[Occurrence, int]]
            if rule.target is None:
                groups = self._counts.items()
            elif rule.target.tokens:
                groups = [pair for token in rule.target.tokens for pair in self._by_target.get(token, ())]
            else:
                groups = self._by_class.get(rule.target.class_, ())
            self._cache[rule] = sum(n for occurrence, n in groups if rule.holds(occurrence))
        return self._cache[rule]

    def share(self, rule: Rule) -> float:
        """Share of tokens on which the rule holds: what is expected by chance."""
        return self.count(rule) / self.n_tokens if self.n_tokens else 0.0


def occurrence_of(exemplar: Exemplar) -> Occurrence:
    """The exemplar's own token and its neighbours in the window."""
    tokens = {i: normal(exemplar.tokens, i) for i in range(len(exemplar.tokens))}
    return _occurrence(tokens, exemplar.target)


def occurrences(tokens: Sequence[str]) -> list[Occurrence]:
    """Every token of a window with its neighbours."""
    texts = {i: normal(tokens, i) for i in range(len(tokens))}
    return [_occurrence(texts, i) for i in texts]


def normal(tokens: Sequence[str], index: int) -> str:
    """A token without leading spaces; a part of a multi-byte character as that character; spaces as one space."""
    return _bare(tokens[index] or next((t for t in (*tokens[index::-1], *tokens[index:]) if t), ""))


def _bare(token: str) -> str:
    return token.lstrip(" ") or " "


def tail(k: int, n: int, p: float) -> float:
    """Probability of at least k hits in n draws that each hit with probability p (binomial)."""
    if k <= 0 or p >= 1:
        return 1.0
    if p <= 0:
        return 0.0
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)
    logs = (log_n - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q for i in range(k, n + 1))
    return min(1.0, math.fsum(math.exp(x) for x in logs))


def with_neighbour(rule: Rule, side: str, place: Place) -> Rule:
    """The rule with one more place fixed."""
    return replace(rule, previous=place) if side == "previous" else replace(rule, next=place)


def quoted(token: str) -> str:
    """A token in quotes, on one line, as one word, at most 20 characters of it."""
    if token == " ":
        return "space"
    printable = token if token.isprintable() else json.dumps(token, ensure_ascii=False)[1:-1]
    return f"'{printable.replace(' ', '␣')[:20]}'"


def _occurrence(tokens: dict[int, str], position: int) -> Occurrence:
    return Occurrence(tokens[position], _neighbour(tokens, position, -1), _neighbour(tokens, position, 1))


def _neighbour(tokens: dict[int, str], position: int, step: int) -> str | None:
    position += step
    while tokens.get(position) == " ":
        position += step
    return tokens.get(position)


def _target_phrase(place: Place) -> str:
    if not place.tokens:
        return PLURAL[place.class_]
    return "token " * (len(place.tokens) == 1) + ", ".join(quoted(t) for t in place.tokens)


def _neighbour_phrase(place: Place) -> str:
    return ", ".join(quoted(t) for t in place.tokens) if place.tokens else SINGULAR[place.class_]
