"""On which tokens of a document rules hold, for many rules at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .rules import SIDES, Place, Rule, seen
from .scoring import read
from .token_classes import Token

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

_UNKNOWN = 0
"""Code of a neighbour beyond the document's end, which no place allows."""
_NEVER = Rule(Place(("",)))
"""In the place of no rules: no token has an empty text."""


class RuleMasks:
    """Holds written rules against documents. What a place allows is looked up once per token of the vocabulary."""

    def __init__(self, written: Sequence[str]) -> None:
        self._rules = [read(text) or (_NEVER,) for text in written]
        flat = [rule for rules in self._rules for rule in rules]
        self._places: dict[Place | None, int] = {None: 0}  # a free place, which allows everything
        self._at = {side: np.array([self._place(r, side) for r in flat], dtype=np.int64) for side in SIDES}
        starts = np.cumsum([0, *(len(rules) for rules in self._rules)])
        # [part, rule] the nth part of each written rule; its last one again where it has fewer
        self._parts = [
            np.minimum(starts[:-1] + n, starts[1:] - 1) for n in range(max(map(len, self._rules), default=1))
        ]
        self._codes: dict[Token | None, int] = {None: _UNKNOWN}
        self._allowed: Bool[np.ndarray, "code place"] = self._rows([None])

    def __call__(self, tokens: Sequence[str]) -> Bool[np.ndarray, "token rule"]:
        """Whether each token of a document is covered by each of the written rules.

        Args:
            tokens: texts of all of the document's tokens, in order.
        """
        own = [seen(tokens, i) for i in range(len(tokens))]
        codes, space = self._coded(own), np.array([t.text == " " for t in own], dtype=bool)
        holds: Bool[np.ndarray, "token rule"] = self._allowed[codes][:, self._at["target"]]
        for side, neighbours in (
            ("previous", _before(codes, space)),
            ("next", _before(codes[::-1], space[::-1])[::-1]),
        ):
            holds &= self._allowed[neighbours][:, self._at[side]]
        return np.logical_or.reduce([holds[:, part] for part in self._parts])

    def _place(self, rule: Rule, side: str) -> int:
        return self._places.setdefault(getattr(rule, side), len(self._places))

    def _coded(self, tokens: Sequence[Token]) -> Int[np.ndarray, " token"]:
        new = [token for token in dict.fromkeys(tokens) if token not in self._codes]
        if new:
            self._codes |= {token: code for code, token in enumerate(new, len(self._codes))}
            self._allowed = np.concatenate([self._allowed, self._rows(new)])
        return np.array([self._codes[token] for token in tokens], dtype=np.int64)

    def _rows(self, tokens: Iterable[Token | None]) -> Bool[np.ndarray, "token place"]:
        return np.array([[p is None or p.holds(token) for p in self._places] for token in tokens], dtype=bool)


def _before(codes: Int[np.ndarray, " token"], space: Bool[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
    """The code of the last token before each that is no space."""
    places = np.where(space, -1, np.arange(len(codes)))
    last = np.maximum.accumulate(places)
    shifted = np.concatenate([[-1], last[:-1]]).astype(np.int64)
    return np.where(shifted >= 0, codes[shifted], _UNKNOWN)
