"""Planted features: functions of tokens whose right grade is known, made of the study's own corpus.

They are an activation set like any other, so that their exemplars are chosen, shown and graded in the same way. Their
densities are spread evenly, on a logarithmic scale, over what the corpus allows between 0.3 and 60 % of the tokens.

Right grades read appendix B.1 as follows. 0: one token. 1, broad but consistent: many tokens that one description
covers, as what follows one token, a class, or a place in the sentence. 2: no one description covers the activation, as
with two unlike tokens, any tokens, or one token at the top with everything below it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from harness.activations.store import ActivationWriter, StoredActivations, StoredDocument, token_texts
from harness.errors import DataError
from harness.records import PLANTED, ActivationSet, PlantedFeature, PlantedKind

RIGHT_GRADE: dict[PlantedKind, Literal[0, 1, 2]] = {
    "token": 0, "context": 1, "class": 1, "position": 1, "mixture": 2, "random": 2, "peak": 2,
}  # fmt: skip
SPARSEST, DENSEST = 0.003, 0.6
"""Shares of the tokens that planted features fire on, where the corpus has such."""
_SPARSEST_BELOW = 0.2
"""Fewest tokens below a peak; the token at the top holds at most a fifth of that, and so the smaller part of the
activation."""
_MOST_OF_A_CLASS = 0.6
"""Largest share of one token in a class, and of one successor in a context: otherwise it is that token."""
_BROADEST_CLASS = 0.25
"""Largest share of the tokens that a class may be: what covers more of the text explains nothing, and is no concept."""
_MOST_TRIES = 1000
CLASSES = ("", "digits", "single letters", "capitalised words", "words", "mathematical signs", "punctuation")
"""Classes of tokens that are planted; the first is none of them."""
_MATHEMATICAL = frozenset("+-*/^=<>%")


@dataclass(frozen=True)
class Words:
    """What the patterns ask about token ids; arrays are indexed by id, and `kinds` holds places in `CLASSES`."""

    texts: tuple[str, ...]
    visible: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, texts: dict[int, str]) -> Words:
        """Of ids with their texts."""
        all_texts = tuple(texts.get(i, "") for i in range(max(texts) + 1))
        return cls(
            all_texts,
            np.array([bool(t.strip()) and t.isprintable() for t in all_texts]),
            np.array([t.rstrip(" ").endswith((".", "!", "?")) or "\n" in t for t in all_texts]),
            np.array([CLASSES.index(_kind(t)) for t in all_texts], dtype=np.int8),
        )


@dataclass(frozen=True)
class Tokens:
    """Tokens with the visible ones before and after each, as ids; -1 where there is none."""

    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, words: Words) -> Tokens:
        """Of one document."""
        return cls(ids, _before(ids, words), _before(ids[::-1], words)[::-1])


Pattern = Callable[[Tokens], np.ndarray]
"""Tokens -> bool [token]: where a feature fires."""


@dataclass(frozen=True)
class Plant:
    """A feature to be made.

    Attributes:
        record: what is stored of it.
        parts: patterns, and the probability that an occurrence of each fires.
        below: share of all other tokens that fire, at less than half of the strength.
        words: what the patterns were made with.
    """

    record: PlantedFeature
    parts: tuple[tuple[Pattern, float], ...]
    below: float
    words: Words


def draw_plants(stored: StoredActivations, n: int, *, k: int, cap: int, seed: int) -> list[Plant]:
    """N features of each kind, of tokens that occur often enough to fill k contexts with at most cap per document.

    Kinds that the corpus cannot carry (it has no such class, no sentences) are left out.

    Args:
        stored: any set over the corpus: its documents are read.
        n: of each kind.
        k: contexts that a feature must fill; fewer where no token of the corpus does.
        cap: contexts of one document.
        seed: of the draw.

    Raises:
        DataError: fewer than four tokens are frequent enough.
    """
    corpus = _Corpus.of(stored, k, cap)
    if len(corpus.frequent) < 4:
        raise DataError(
            f"only {len(corpus.frequent)} tokens of {stored.path} fill {corpus.wanted} contexts; read more documents, "
            "or do without planted features: --set grading.planted=0"
        )
    rng = Random(seed)
    plants: list[Plant] = []
    for kind, found in _candidates(corpus).items():
        plants += _spread(kind, found, n, corpus, rng)
    plants += [_mixture(i, n, corpus, rng) for i in range(n)]
    sparsest = max(SPARSEST, min(DENSEST, 2 * corpus.wanted / max(1, corpus.ranked.sum())))
    for i, share in enumerate(np.geomspace(sparsest, DENSEST, n)):
        plants.append(_plant("random", i, (), [(_any, float(share))], corpus))
    for i, share in enumerate(np.geomspace(_SPARSEST_BELOW, DENSEST, n)):
        rare = [t for t in corpus.frequent if corpus.share(_is(t)) <= share / 5]
        top = rng.choice(rare or corpus.frequent)
        plants.append(_plant("peak", i, (corpus.words.texts[top],), [(_is(top), 1.0)], corpus, below=float(share)))
    return plants


def write_plants(plants: list[Plant], stored: StoredActivations, folder: Path, *, seed: int) -> ActivationSet:
    """The planted features' activations on every document: 1 to 2 where one fires, up to 1 below a peak, else 0."""
    writer = ActivationWriter(
        folder,
        PLANTED,
        tuple(p.record.feature for p in plants),
        layers=(None,) * len(plants),
        projections=(None,) * len(plants),
        signed=False,
        site="planted: a function of the tokens",
        chat_hash=stored.set.chat_hash,
    )
    for document in stored.documents(stored.document_ids[writer.n_documents_done :]):
        writer.append(document.document(), _activations(plants, document, seed))
    return writer.finish()


def _activations(plants: list[Plant], document: StoredDocument, seed: int) -> np.ndarray:
    """Activations [token, feature] on one document; the same for the same seed, whatever came before."""
    digest = hashlib.sha256(f"{seed}:{document.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8]))
    tokens, shape = Tokens.of(np.asarray(document.ids), plants[0].words), (len(plants), len(document.ids))
    chance, strength = rng.random(shape), rng.uniform(1, 2, shape)
    fires, below = np.zeros(shape), np.repeat([[p.below] for p in plants], shape[1], axis=1)
    for i, plant in enumerate(plants):
        for pattern, probability in plant.parts:
            holds = pattern(tokens)
            fires[i, holds], below[i, holds] = probability, 0
    weak = np.where(chance < below, strength - 1, 0)
    return np.where(chance < fires, strength, weak).T.astype(np.float32)


@dataclass(frozen=True)
class _Corpus:
    """All tokens of a set, one document after the other."""

    tokens: Tokens
    ranked: np.ndarray
    document: np.ndarray
    words: Words
    cap: int
    wanted: int
    frequent: list[int]
    """Visible tokens that fill `wanted` contexts, by id."""

    @classmethod
    def of(cls, stored: StoredActivations, k: int, cap: int) -> _Corpus:
        texts: dict[int, str] = {}
        ids, ranked = [], []
        for document in stored.documents():
            for token, place in zip(*np.unique(document.ids, return_index=True), strict=True):
                if int(token) not in texts:
                    texts[int(token)] = token_texts(document, int(place), int(place) + 1)[0]
            ids.append(np.asarray(document.ids))
            ranked.append(document.ranked)
        words = Words.of(texts)
        parts = [Tokens.of(own, words) for own in ids]
        tokens = Tokens(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "before", "after")))
        ranks, of = np.concatenate(ranked), np.repeat(np.arange(len(ids)), [len(own) for own in ids])
        pairs, counts = np.unique(of[ranks] * len(words.texts) + tokens.ids[ranks], return_counts=True)
        capped = np.bincount(pairs % len(words.texts), np.minimum(counts, cap), len(words.texts))
        wanted = min(k, int(capped.max(initial=0)) // 2)
        frequent = np.flatnonzero((capped >= wanted) & words.visible & (capped > 0)).tolist()
        return cls(tokens, ranks, of, words, cap, wanted, frequent)

    def share(self, pattern: Pattern) -> float:
        """Share of the ranked tokens on which a pattern holds."""
        return float((pattern(self.tokens) & self.ranked).sum() / max(1, self.ranked.sum()))

    def contexts(self, pattern: Pattern) -> int:
        """Contexts that it fills, at most `cap` per document."""
        hits = self.document[pattern(self.tokens) & self.ranked]
        return int(np.minimum(np.bincount(hits), self.cap).sum())

    def thinning(self, pattern: Pattern, share: float) -> float:
        """Probability with which an occurrence must fire for a share of all tokens to do so, contexts permitting."""
        needed = 2 * self.wanted / max(1, self.contexts(pattern))
        return min(1.0, max(share / max(self.share(pattern), 1e-12), needed))


def _candidates(corpus: _Corpus) -> dict[PlantedKind, list[tuple[str, Pattern]]]:
    """Kind -> what it can be made of, with its name; kinds of which the corpus has none have an empty list."""
    words, tokens = corpus.words, corpus.tokens
    texts = words.texts
    classes = [(CLASSES[i], partial(_of_class, words=words, kind=i)) for i in range(1, len(CLASSES))]
    contexts = [(texts[t], partial(_follows, words=words, token=t)) for t in corpus.frequent]
    positions = [
        ("first of a sentence", partial(_first, words=words)),
        ("last of a sentence", partial(_last, words=words)),
    ]
    found: dict[PlantedKind, list[tuple[str, Pattern]]] = {"token": [(texts[t], _is(t)) for t in corpus.frequent]}
    for kind, given in (("context", contexts), ("class", classes), ("position", positions)):
        found[kind] = []  # type: ignore[index]
        for name, pattern in given:
            own = tokens.ids[pattern(tokens) & corpus.ranked]
            vacuous = kind == "class" and corpus.share(pattern) > _BROADEST_CLASS
            if len(own) and not vacuous and np.bincount(own).max() <= _MOST_OF_A_CLASS * len(own):
                if corpus.contexts(pattern) >= corpus.wanted:
                    found[kind].append((name, pattern))  # type: ignore[index]
    return found


def _spread(
    kind: PlantedKind, found: Sequence[tuple[str, Pattern]], n: int, corpus: _Corpus, rng: Random
) -> Iterator[Plant]:
    """N features, each of a candidate that is at least as frequent as wanted; each is used once while they last."""
    if not found:
        return
    shares = [corpus.share(pattern) for _, pattern in found]
    unused = set(range(len(found)))
    for i, share in enumerate(np.geomspace(min(SPARSEST, max(shares)), min(DENSEST, max(shares)), n)[::-1]):
        unused = unused or set(range(len(found)))
        near = [c for c in sorted(unused) if share * 0.999 <= shares[c] <= 2 * share]
        above = [c for c in sorted(unused) if shares[c] >= share * 0.999]
        chosen = rng.choice(near) if near else min(above or sorted(unused), key=lambda c: abs(shares[c] - share))
        unused.discard(chosen)
        name, pattern = found[chosen]
        yield _plant(kind, i, (name,), [(pattern, corpus.thinning(pattern, float(share)))], corpus)


def _mixture(index: int, n: int, corpus: _Corpus, rng: Random) -> Plant:
    """Two unlike tokens. The commoner fires less often, so that both are shown about as often."""
    pair = _unlike_pair(corpus, rng)
    shares = [corpus.share(_is(t)) for t in pair]
    share = float(np.geomspace(SPARSEST, DENSEST, n)[index])
    thin = max(corpus.thinning(_is(t), share / 2) * shares[i] for i, t in enumerate(pair))
    parts = [(_is(t), min(thin, *shares) / own) for t, own in zip(pair, shares, strict=True)]
    return _plant("mixture", index, tuple(corpus.words.texts[t] for t in pair), parts, corpus)


def _unlike_pair(corpus: _Corpus, rng: Random) -> list[int]:
    """Two frequent tokens of different kinds; of these, as even in number as a few draws find."""
    kinds, pairs = corpus.words.kinds, []
    for _ in range(_MOST_TRIES):
        one, other = rng.sample(corpus.frequent, 2)
        if kinds[one] != kinds[other]:
            counts = [corpus.share(_is(one)), corpus.share(_is(other))]
            pairs.append((max(counts) / min(counts), one, other))
        if len(pairs) == 3:
            break
    if not pairs:
        return rng.sample(corpus.frequent, 2)  # a corpus of one kind of tokens: two of them are still two concepts
    _, one, other = min(pairs)
    return [one, other]


def _plant(
    kind: PlantedKind,
    index: int,
    concepts: tuple[str, ...],
    parts: Sequence[tuple[Pattern, float]],
    corpus: _Corpus,
    *,
    below: float = 0.0,
) -> Plant:
    name = f"{kind}-{index}"
    record = PlantedFeature(item=name, feature=name, kind=kind, concepts=concepts, right_grade=RIGHT_GRADE[kind])
    return Plant(record, tuple(parts), below, corpus.words)


def _kind(text: str) -> str:
    """The class of a token that is planted; empty for white space and what belongs to none."""
    bare = text.strip()
    if not bare or not bare.isprintable():
        return ""
    if bare.isdigit():
        return "digits"
    if bare.isalpha():
        return "single letters" if len(bare) == 1 else "capitalised words" if bare[0].isupper() else "words"
    if all(c in _MATHEMATICAL or unicodedata.category(c) == "Sm" for c in bare):
        return "mathematical signs"
    return "punctuation" if all(unicodedata.category(c)[0] == "P" for c in bare) else ""


def _before(ids: np.ndarray, words: Words) -> np.ndarray:
    """The visible token before each; spaces are skipped, since some tokenizers write `= 7` as `=`, ` `, `7`."""
    places = np.maximum.accumulate(np.where(words.visible[ids] | words.ends[ids], np.arange(len(ids)), -1))
    places = np.concatenate([[-1], places[:-1]])
    return np.where(places >= 0, ids[places], -1)


def _any(tokens: Tokens) -> np.ndarray:
    return np.ones(len(tokens.ids), dtype=bool)


def _is(token: int) -> Pattern:
    return lambda tokens: tokens.ids == token


def _of_class(tokens: Tokens, words: Words, kind: int) -> np.ndarray:
    found: np.ndarray = words.kinds[tokens.ids] == kind
    return found


def _follows(tokens: Tokens, words: Words, token: int) -> np.ndarray:
    return words.visible[tokens.ids] & (tokens.before == token)


def _first(tokens: Tokens, words: Words) -> np.ndarray:
    return words.visible[tokens.ids] & (tokens.before >= 0) & words.ends[tokens.before]


def _last(tokens: Tokens, words: Words) -> np.ndarray:
    own = words.visible[tokens.ids] & ~words.ends[tokens.ids]
    return own & (tokens.after >= 0) & words.ends[tokens.after]
