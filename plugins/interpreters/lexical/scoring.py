"""Scoring tests answered by the lexical interpreter's own rules: an explanation is what its rule says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.records import Explanation, ScoringAnswer, ScoringContext, ScoringTest

from .rules import Place, Rule, occurrences, seen


def written(rules: Sequence[Rule]) -> str:
    """Rules as JSON; a token is covered if one of them holds."""
    return json.dumps([{name: _written(place) for name, place in vars(rule).items() if place} for rule in rules])


def read(rules: str) -> tuple[Rule, ...]:
    """What `written` wrote."""
    return tuple(Rule(**{name: _read(place) for name, place in rule.items()}) for rule in json.loads(rules))


def answer(explanation: Explanation, test: ScoringTest) -> ScoringAnswer:
    """Detection: h / (h + 1) for h tokens covered. Fuzzing: share of marked tokens covered; intruder: not covered.

    Simulation: 1 on each token that is covered, else 0. Output: 1 for a token that a rule names; what a rule says of
    neighbours does not hold of a single token, so a rule about neighbours alone names none.
    """
    if explanation.rule is None:
        return ScoringAnswer(item=test.item, ratings=None, reason="the explanation has no rule to predict by")
    rules = read(explanation.rule)
    if test.kind == "simulation":
        return ScoringAnswer(item=test.item, ratings=tuple(map(float, _covered(test.contexts[0], rules))))
    if test.kind == "output":
        named = [rule.target for rule in rules if rule.target is not None]
        tokens = [seen(context.tokens, 0) for context in test.contexts]
        return ScoringAnswer(item=test.item, ratings=tuple(float(any(p.holds(t) for p in named)) for t in tokens))
    ratings = []
    for context in test.contexts:
        hits = _covered(context, rules)
        if test.kind == "detection":
            n = sum(hits)
            ratings.append(n / (n + 1))
        else:
            share = sum(hits[i] for i in context.marked) / max(1, len(context.marked))
            ratings.append(1 - share if test.kind == "intruder" else share)
    return ScoringAnswer(item=test.item, ratings=tuple(ratings))


def _covered(context: ScoringContext, rules: Sequence[Rule]) -> list[bool]:
    return [any(rule.holds(o) for rule in rules) for o in occurrences(context.tokens)]


def _written(place: Place) -> dict[str, Any]:
    return {"tokens": list(place.tokens)} if place.tokens else {"class": place.class_}


def _read(place: dict[str, Any]) -> Place:
    return Place(tuple(place.get("tokens", ())), place.get("class", ""))
