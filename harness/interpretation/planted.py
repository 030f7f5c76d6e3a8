"""Planted features: functions of tokens whose right grade is known, made of the study's own corpus.

They are an activation set like any other, so that their exemplars are chosen, shown and graded in the same way. One
token fires a monosemantic feature (right grade 0), two tokens that have nothing in common a mixture (2), and tokens
drawn blindly a random one (2).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from harness.activations.store import ActivationWriter, StoredActivations, StoredDocument, token_texts
from harness.errors import DataError
from harness.records import PLANTED, ActivationSet, PlantedFeature, PlantedKind

RIGHT_GRADE: dict[PlantedKind, Literal[0, 1, 2]] = {"monosemantic": 0, "mixture": 2, "random": 2}
_RANDOM_SHARE = 0.02
_MOST_TRIES = 1000


@dataclass(frozen=True)
class Plant:
    """A feature to be made.

    Attributes:
        record: what is stored of it.
        keep: token id -> probability that an occurrence fires; None for one that fires on any token.
    """

    record: PlantedFeature
    keep: dict[int, float] | None


def draw_plants(stored: StoredActivations, n: int, *, k: int, cap: int, seed: int) -> list[Plant]:
    """N features of each kind, of tokens that occur often enough to fill k contexts with at most cap per document.

    Args:
        stored: any set over the corpus: its documents are read.
        n: of each kind.
        k: contexts that a feature must fill; fewer where no token of the corpus does.
        cap: contexts of one document.
        seed: of the draw.

    Raises:
        DataError: fewer than four tokens are frequent enough.
    """
    total, capped, texts = _count(stored, cap)
    wanted = min(k, max(capped.values(), default=0) // 2)
    frequent = sorted(t for t, count in capped.items() if count >= wanted and _visible(texts[t]))
    if len(frequent) < 4:
        raise DataError(
            f"only {len(frequent)} tokens of {stored.path} fill {wanted} contexts; read more documents, or do without "
            "planted features: --set grading.planted=0"
        )
    rng = Random(seed)
    rng.shuffle(frequent)
    plants = [_plant("monosemantic", i, [frequent[i % len(frequent)]], total, texts) for i in range(n)]
    for i in range(n):
        plants.append(_plant("mixture", i, _unlike_pair(frequent, total, texts, rng), total, texts))
    return plants + [_plant("random", i, [], total, texts) for i in range(n)]


def write_plants(plants: list[Plant], stored: StoredActivations, folder: Path, *, seed: int) -> ActivationSet:
    """The planted features' activations on every document: 1 to 2 where one fires, else 0."""
    writer = ActivationWriter(
        folder,
        PLANTED,
        tuple(p.record.feature for p in plants),
        layers=(None,) * len(plants),
        projections=(None,) * len(plants),
        signed=False,
        site="planted: a function of the token",
        chat_hash=stored.set.chat_hash,
    )
    for document in stored.documents(stored.document_ids[writer.n_documents_done :]):
        writer.append(document.document(), np.stack(list(_activations(plants, document, seed)), axis=1))
    return writer.finish()


def _activations(plants: list[Plant], document: StoredDocument, seed: int) -> Iterator[np.ndarray]:
    """Each feature's activations [token] on one document; the same for the same seed, whatever came before."""
    digest = hashlib.sha256(f"{seed}:{document.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8]))
    for plant in plants:
        chance, strength = rng.random(len(document.ids)), rng.uniform(1, 2, len(document.ids))
        fires = np.full(len(document.ids), _RANDOM_SHARE)
        if plant.keep is not None:
            fires = np.zeros(len(document.ids))
            for token, probability in plant.keep.items():
                fires[document.ids == token] = probability
        yield np.where(chance < fires, strength, 0).astype(np.float32)


def _count(stored: StoredActivations, cap: int) -> tuple[Counter[int], Counter[int], dict[int, str]]:
    """Occurrences of each token id, occurrences with at most `cap` per document, and its text."""
    total: Counter[int] = Counter()
    capped: Counter[int] = Counter()
    texts: dict[int, str] = {}
    for document in stored.documents():
        ids, first, counts = np.unique(document.ids[document.ranked], return_index=True, return_counts=True)
        places = np.flatnonzero(document.ranked)[first]
        for token, place, count in zip(ids.tolist(), places.tolist(), counts.tolist(), strict=True):
            total[token] += count
            capped[token] += min(count, cap)
            if token not in texts:
                texts[token] = token_texts(document, place, place + 1)[0]
    return total, capped, texts


def _visible(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _unlike_pair(frequent: list[int], total: Counter[int], texts: dict[int, str], rng: Random) -> list[int]:
    """Two tokens of different kinds; of these, as even in number as a few draws find."""
    pairs = []
    for _ in range(_MOST_TRIES):
        one, other = rng.sample(frequent, 2)
        if _kind(texts[one]) != _kind(texts[other]):
            pairs.append((max(total[one], total[other]) / min(total[one], total[other]), one, other))
        if len(pairs) == 3:
            break
    if not pairs:
        return rng.sample(frequent, 2)  # a corpus of one kind of tokens: two of them are still two concepts
    _, one, other = min(pairs)
    return [one, other]


def _kind(text: str) -> str:
    bare = text.strip()
    return (
        "digit"
        if bare.isdigit()
        else "letter"
        if len(bare) == 1 and bare.isalpha()
        else "word"
        if bare.isalpha()
        else "sign"
    )


def _plant(kind: PlantedKind, index: int, tokens: list[int], total: Counter[int], texts: dict[int, str]) -> Plant:
    """The commoner token of a mixture fires less often, so that both are shown about as often."""
    least = min((total[t] for t in tokens), default=0)
    name = f"{kind}-{index}"
    record = PlantedFeature(
        item=name,
        feature=name,
        kind=kind,
        concepts=tuple(texts[t] for t in tokens),
        right_grade=RIGHT_GRADE[kind],
    )
    return Plant(record, {t: least / total[t] for t in tokens} if tokens else None)
