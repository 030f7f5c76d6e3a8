"""Exemplars: the exact k highest activations of every feature over all tokens, and the windows round them.

One pass, one document in memory. Every candidate is an int64 key: the bits of its float32 value above, 2^32-1 minus
its place in the stream below. Keys are totally ordered (value descending, then document order, then position), so the
result is the brute-force one whatever the shards, and ties are no accident. State is features x k keys.

Special tokens and each document's first token are not ranked, not summed, not counted, and read 0 in windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.activations.store import StoredActivations, StoredDocument, token_texts, whole_characters
from harness.errors import DataError
from harness.records import Evidence, Exemplar, Feature

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_LAST = np.int64(2**32 - 1)


@dataclass(frozen=True)
class TopK:
    """What a pass over a stream found. F features, in the order column 0 +, column 0 -, column 1 +, ... if signed.

    Attributes:
        values: [feature, k] highest activations, sorted; 0 where there are fewer.
        tokens: [feature, k] place of each in the stream of all tokens; -1 where there are fewer.
        activation_sum: [feature] sum over ranked tokens.
        activation_max: [feature] maximum over ranked tokens.
        n_active: [feature] ranked tokens on which it is greater than 0.
        n_tokens: ranked tokens.
    """

    values: Float[np.ndarray, "feature k"]
    tokens: Int[np.ndarray, "feature k"]
    activation_sum: Float[np.ndarray, " feature"]
    activation_max: Float[np.ndarray, " feature"]
    n_active: Int[np.ndarray, " feature"]
    n_tokens: int


class TopKTracker:
    """Keeps the k highest activations per feature, at most `cap` of one document."""

    def __init__(self, n_columns: int, *, signed: bool, k: int = 64, cap: int | None = 4) -> None:
        if k < 1 or (cap is not None and cap < 1):
            raise ValueError(f"k and cap must be at least 1 (k={k}, cap={cap})")
        self.k, self.cap, self.signed = k, min(cap or k, k), signed
        n = n_columns * (2 if signed else 1)
        self._keys = np.zeros((n, k), dtype=np.int64)
        self._sum, self._max = np.zeros(n), np.zeros(n, dtype=np.float32)
        self._n_active = np.zeros(n, dtype=np.int64)
        self._n_ranked = self._n_seen = 0

    def add_document(self, values: Float[np.ndarray, "token column"], ranked: np.ndarray) -> None:
        """Take in the next document of the stream.

        Args:
            values: activations, float16 or float32.
            ranked: bool [token]: which tokens count.
        """
        if self._n_seen + len(values) > _LAST:
            raise DataError("more than 2^32 tokens in one activation set; split it")
        places = np.flatnonzero(ranked)
        # torch converts fp16 twenty times faster than numpy.
        kept = torch.from_numpy(np.ascontiguousarray(values[places])).float()
        places = places.astype(np.int64) + self._n_seen
        self._n_seen += len(values)
        self._n_ranked += len(places)
        if len(places):
            for offset, sign in enumerate((1, -1) if self.signed else (1,)):
                self._add((kept if sign > 0 else -kept).clamp(min=0).numpy(), places, offset)

    def result(self) -> TopK:
        """What was found so far."""
        values = (self._keys >> 32).astype(np.int32).view(np.float32)
        tokens = np.where(self._keys > 0, _LAST - (self._keys & _LAST), -1)
        return TopK(values, tokens, self._sum.copy(), self._max.copy(), self._n_active.copy(), self._n_ranked)

    def _add(self, values: np.ndarray, places: np.ndarray, offset: int) -> None:
        """`values` [token, column] >= 0 of one polarity; its features are rows offset, offset + 2, ... of the state."""
        rows = slice(offset, None, 2 if self.signed else 1)
        highest = values.max(0)
        self._sum[rows] += values.sum(0, dtype=np.float64)
        self._n_active[rows] += (values > 0).sum(0)
        np.maximum(self._max[rows], highest, out=self._max[rows])
        # Equal values that come later lose, so only a strictly higher maximum can change a full state.
        kth = (self._keys[rows, -1] >> 32).astype(np.int32).view(np.float32)
        columns = np.flatnonzero(highest > kth)
        if not len(columns):
            return
        chosen = np.ascontiguousarray(values[:, columns].T)
        keys = (chosen.view(np.int32).astype(np.int64) << 32) | (_LAST - places)
        keys[chosen <= 0] = 0
        if keys.shape[1] > self.cap:
            keys = np.partition(keys, keys.shape[1] - self.cap, axis=1)[:, -self.cap :]
        features = np.arange(len(self._keys))[rows][columns]
        merged = np.concatenate([self._keys[features], keys], axis=1)
        merged.sort(axis=1)
        self._keys[features] = merged[:, : -self.k - 1 : -1]


def find_top(stored: StoredActivations, *, k: int = 64, cap: int | None = 4) -> TopK:
    """One pass over a stored set."""
    tracker = TopKTracker(len(stored.columns), signed=stored.set.signed, k=k, cap=cap)
    for document in stored.documents():
        tracker.add_document(document.values, document.ranked)
    return tracker.result()


def collect_features(
    stored: StoredActivations, *, k: int = 64, cap: int | None = 4, window: int = 12
) -> Iterator[Feature]:
    """Every column's features with their exemplars, in column order.

    A signed column gives two features: `name+` of max(v, 0) and `name-` of max(-v, 0). Dead features come too, without
    exemplars.

    Args:
        stored: the set.
        k: exemplars per feature.
        cap: most exemplars of one document; None for no limit.
        window: tokens shown on either side, clipped to the document; an edge that would cut a character moves outwards.
    """
    top = find_top(stored, k=k, cap=cap)
    bounds = np.cumsum([0, *(stored.n_tokens([d]) for d in stored.document_ids)])
    signs = (1, -1) if stored.set.signed else (1,)
    for row in range(len(top.values)):
        column, polarity = divmod(row, len(signs))
        sign = signs[polarity]
        name = stored.columns[column] + ("" if len(signs) == 1 else "+-"[polarity])
        tokens = top.tokens[row][top.tokens[row] >= 0]
        documents = np.searchsorted(bounds, tokens, side="right") - 1
        exemplars = tuple(
            _exemplar(stored.document(stored.document_ids[d]), rank, int(token - bounds[d]), column, sign, window)
            for rank, (token, d) in enumerate(zip(tokens, documents, strict=True))
        )
        yield Feature(
            item=name,
            source=stored.set.source,
            feature=name,
            layer=stored.set.layers[column],
            projection=stored.set.projections[column],
            density_per_token=float(top.n_active[row] / max(top.n_tokens, 1)),
            activation_sum=float(top.activation_sum[row]),
            activation_max=float(top.activation_max[row]),
            n_tokens=top.n_tokens,
            exemplars=exemplars,
        )


def evidence(features: Iterable[Feature], n_exemplars: int = 64) -> list[Evidence]:
    """Features as shown to an interpreter: the `n_exemplars` highest, in order, the same for every source."""
    return [
        Evidence(
            source=f.source,
            feature=f.feature,
            layer=f.layer,
            projection=f.projection,
            exemplars=f.exemplars[:n_exemplars],
        )
        for f in features
    ]


def _exemplar(document: StoredDocument, rank: int, position: int, column: int, sign: int, window: int) -> Exemplar:
    start, stop = max(position - window, 0), min(position + window + 1, len(document.ids))
    start, stop = whole_characters(document, start, stop)
    values = np.maximum(sign * document.window(start, stop, column), 0)
    values[document.special[start:stop]] = 0
    if start == 0:
        values[0] = 0
    return Exemplar(
        rank=rank,
        document=document.id,
        position=position,
        start=start,
        tokens=token_texts(document, start, stop),
        activations=tuple(values.tolist()),
        target=position - start,
    )
