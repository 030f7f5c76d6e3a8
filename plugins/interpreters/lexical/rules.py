"""Rules about a token and its neighbours, and what they say in words.

A rule is a pattern over (target, previous, next). Each place is fixed to a token, to a few tokens, to a class, or free.
Spaces between a token and its neighbour are skipped: tokenizers that split digits write `= 7` as `=`, ` `, `7`. The
place in a sentence or a line is told by its neighbours: a sentence or line end before or after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.records import Exemplar

from .token_classes import CLASSES, INDEX, Token, classes_of

SIDES = ("target", "previous", "next")
"""The places of a rule."""
_NEAR = 8
"""Tokens within which a whole character lies."""


class Place(NamedTuple):
    """What one place of a rule must be: one of `tokens`, else any of `class_`, which of tokens is only their name."""

    tokens: tuple[str, ...] = ()
    class_: str = ""

    def holds(self, token: Token | None) -> bool:
        """Whether a token is allowed here; an unknown neighbour never is."""
        if token is None:
            return False
        return token.text in self.tokens if self.tokens else classes_of(token)[INDEX[self.class_]]


class Occurrence(NamedTuple):
    """A token with its neighbours; None where the window ends."""

    target: Token
    previous: Token | None
    next: Token | None


@dataclass(frozen=True)
class Rule:
    """A pattern; None is a free place."""

    target: Place | None = None
    previous: Place | None = None
    next: Place | None = None

    def holds(self, occurrence: Occurrence) -> bool:
        """Whether all places hold."""
        return all(
            place is None or place.holds(token)
            for place, token in zip((self.target, self.previous, self.next), occurrence, strict=True)
        )

    def phrase(self) -> str:
        """The rule in a few words."""
        target = "tokens" if self.target is None else _target_phrase(self.target)
        if self.previous == _BOUNDARY and self.next is None:
            return f"{target} opening a sentence or line"
        before, after = (None if p is None else _neighbour_phrase(p) for p in (self.previous, self.next))
        if before and after:
            return f"{target} between {before} and {after}"
        return f"{target} after {before}" if before else f"{target} before {after}" if after else target


_BOUNDARY = Place(class_="boundary")


def occurrence_of(exemplar: Exemplar) -> Occurrence:
    """The exemplar's own token and its neighbours in the window."""
    return _occurrence(exemplar.tokens, exemplar.target)


def occurrences(tokens: Sequence[str]) -> list[Occurrence]:
    """Every token of a window with its neighbours."""
    return [_occurrence(tokens, i) for i in range(len(tokens))]


def seen(tokens: Sequence[str], index: int) -> Token:
    """A token of a window with the characters beside it."""
    own = tokens[index]
    left = " " if own[:1] == " " else next((t[-1] for t in tokens[max(0, index - _NEAR) : index][::-1] if t), "")
    right = next((t[0] for t in tokens[index + 1 : index + 1 + _NEAR] if t), "")
    return Token(normal(tokens, index), left, right)


def normal(tokens: Sequence[str], index: int) -> str:
    """A token without leading spaces; a part of a multi-byte character as that character; spaces as one space."""
    token = tokens[index] or next((t for t in (*tokens[index::-1], *tokens[index:]) if t), "")
    return token.lstrip(" ") or " "


def quoted(token: str) -> str:
    """A token in quotes, on one line, as one word, at most 20 characters of it."""
    if token == " ":
        return "space"
    printable = token if token.isprintable() else json.dumps(token, ensure_ascii=False)[1:-1]
    return f"'{printable.replace(' ', '␣')[:20]}'"


def _occurrence(tokens: Sequence[str], position: int) -> Occurrence:
    return Occurrence(seen(tokens, position), _neighbour(tokens, position, -1), _neighbour(tokens, position, 1))


def _neighbour(tokens: Sequence[str], position: int, step: int) -> Token | None:
    position += step
    while 0 <= position < len(tokens) and normal(tokens, position) == " ":
        position += step
    return seen(tokens, position) if 0 <= position < len(tokens) else None


def _target_phrase(place: Place) -> str:
    class_ = CLASSES[INDEX[place.class_]] if place.class_ else None
    if not place.tokens or place.tokens == (" ",):
        return class_.plural if class_ else "spaces"
    names = ", ".join(quoted(t) for t in place.tokens)
    if len(place.tokens) == 1:
        return f"{class_.noun if class_ else 'token'} {names}"
    return f"{class_.plural} {names}" if class_ else names


def _neighbour_phrase(place: Place) -> str:
    return ", ".join(quoted(t) for t in place.tokens) if place.tokens else CLASSES[INDEX[place.class_]].singular
