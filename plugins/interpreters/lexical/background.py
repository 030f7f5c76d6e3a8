"""How often rules hold by chance: on all tokens of all contexts, each token counted once."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from harness.records import Evidence, Exemplar

from .rules import SIDES, Place, Rule, occurrences
from .token_classes import CLASSES, INDEX, Token, classes_of

if TYPE_CHECKING:
    from jaxtyping import UInt8


class Background:
    """The tokens of the contexts with their neighbours. What a place allows is kept as bits, to count rules by."""

    def __init__(self, evidence: Iterable[Evidence], max_tokens: int) -> None:
        codes: dict[Token | None, int] = {None: 0}
        rows = [
            [codes.setdefault(token, len(codes)) for token in occurrence]
            for text in _texts(evidence, max_tokens)
            for occurrence in occurrences(text)
        ]
        self.n_tokens = len(rows)
        self._codes = np.array(rows, dtype=np.int32).reshape(-1, len(SIDES)).T
        self._classes = np.array([[False] * len(CLASSES), *(classes_of(t) for t in codes if t)], dtype=bool)
        words = {text: i for i, text in enumerate(dict.fromkeys(t.text for t in codes if t), 1)}
        self._word_of = np.array([words[t.text] if t else 0 for t in codes], dtype=np.int32)
        self._words = words
        self._bits: dict[tuple[str, Place], UInt8[np.ndarray, " byte"]] = {}
        self._counts: dict[Rule, int] = {}
        self._roles: dict[str, float] = defaultdict(float)
        self.n_words = len(words)
        """Distinct tokens."""

    def count(self, rule: Rule) -> int:
        """Tokens on which the rule holds."""
        if rule not in self._counts:
            fixed = [self._mask(side, place) for side, place in vars(rule).items() if place is not None]
            held = fixed[0] if fixed else np.packbits(np.ones(self.n_tokens, dtype=bool))
            for mask in fixed[1:]:
                held = held & mask
            self._counts[rule] = int(np.bitwise_count(held).sum())
        return self._counts[rule]

    def share(self, rule: Rule) -> float:
        """Share of tokens on which the rule holds: what is expected by chance."""
        return self.count(rule) / self.n_tokens if self.n_tokens else 0.0

    def share_of_role(self, role: str) -> float:
        """Share of tokens whose own class has a role."""
        if not self._roles:
            own = self._classes[self._codes[0]].argmax(1)
            for i, n in enumerate(np.bincount(own, minlength=len(CLASSES)).tolist()):
                self._roles[CLASSES[i].role] += n / max(1, self.n_tokens)
        return self._roles[role]

    def _mask(self, side: str, place: Place) -> UInt8[np.ndarray, " byte"]:
        if (side, place) not in self._bits:
            if place.tokens:
                allowed = np.isin(self._word_of, [self._words.get(token, -1) for token in place.tokens])
            else:
                allowed = self._classes[:, INDEX[place.class_]]
            self._bits[side, place] = np.packbits(allowed[self._codes[SIDES.index(side)]])
        return self._bits[side, place]


def _texts(evidence: Iterable[Evidence], max_tokens: int) -> Iterable[list[str]]:
    """Runs of tokens that the windows of the evidence cover; whole documents, up to so many tokens."""
    windows: dict[str, dict[tuple[int, int], Exemplar]] = defaultdict(dict)
    for feature in evidence:
        for exemplar in feature.exemplars:
            windows[exemplar.document][exemplar.start, len(exemplar.tokens)] = exemplar
    n = 0
    # in the order of a hash: a sample of documents that depends on neither their order nor a seed
    for document in sorted(windows, key=lambda d: (zlib.crc32(d.encode()), d)):
        if n >= max_tokens:
            break
        run: list[str] = []
        end = 0
        for (start, length), exemplar in sorted(windows[document].items(), key=lambda item: item[0]):
            if start > end and run:
                yield run
                run = []
            if start + length > end or not run:
                new = exemplar.tokens[max(0, end - start) if run else 0 :]
                run.extend(new)
                n += len(new)
                end = start + length
        if run:
            yield run
