"""QuantileSample: contexts of all strengths, for scorers; the highest alone say little of what a feature means.

Every token of the stream has a priority, a hash of the seed and its place. The active tokens of lowest priority are a
uniform sample of a feature's active tokens, whatever the shards; sorted by activation and cut into as many strata as
contexts are wanted, one from each, they cover the feature's activation quantiles evenly. State is features x 4 n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.activations.sparse import SparseRows
from harness.activations.topk import LAST, bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_POOL = 4
"""Tokens sampled per context wanted: strata cut from more of them lie closer to the true quantiles."""
_NEVER = np.int64(2**32)


@dataclass(frozen=True)
class Sampled:
    """Samples of all features, in `TopK`'s order; each feature's highest activation first.

    Attributes:
        bounds: [feature + 1] feature f has the contexts bounds[f] to bounds[f + 1].
        tokens: [context] place of each in the stream of all tokens.
        values: [context] activations.
        quantiles: [context] share of the feature's active tokens that are lower, estimated from 4 n tokens.
    """

    bounds: Int[np.ndarray, " feature_and_one"]
    tokens: Int[np.ndarray, " context"]
    values: Float[np.ndarray, " context"]
    quantiles: Float[np.ndarray, " context"]


@dataclass(frozen=True)
class _Entries:
    """Tokens in pools: key is the feature above and the token's priority below."""

    key: np.ndarray
    token: np.ndarray
    value: np.ndarray

    def chosen(self, at: np.ndarray) -> _Entries:
        return _Entries(self.key[at], self.token[at], self.value[at])

    @property
    def feature(self) -> np.ndarray:
        return self.key >> 32


class QuantileSample:
    """Keeps, per feature, the 4 n active tokens of lowest priority."""

    def __init__(self, n_columns: int, *, signed: bool, n: int, seed: int) -> None:
        self.n, self._pool, self._seed = n, _POOL * n, seed
        self._n_columns, self._signs = n_columns, (1, -1) if signed else (1,)
        self._limit = np.full((len(self._signs), n_columns), _NEVER)
        self._entries = _Entries(*(np.zeros(0, dtype=t) for t in (np.int64, np.int64, np.float32)))
        self._pending: list[_Entries] = []
        self._n_pending = self._n_seen = self._first = 0

    def add_document(self, values: Float[np.ndarray, "token column"] | SparseRows, ranked: np.ndarray) -> None:
        """Take in the next document of the stream; as `TopKTracker.add_document`."""
        places = np.flatnonzero(ranked)
        self._first, self._n_seen = self._n_seen, self._n_seen + len(ranked)
        if not self.n or not len(places):
            return
        priority = _priorities(places + self._first, self._seed)
        if priority.min() > self._limit.max():
            return
        for at, sign in enumerate(self._signs):
            if isinstance(values, SparseRows):
                self._offer_sparse(values, len(ranked), places, priority, at, sign)
            else:
                self._offer_dense(values, places, priority, at, sign)
        if self._n_pending > self._limit.size * self._pool:
            self._compact()

    def result(self) -> Sampled:
        """What was found so far.

        Sorted by activation, a feature's pool is cut into `n` strata of equal size; each gives the token of lowest
        priority in it.
        """
        self._compact()
        n_features = self._limit.size
        # From (polarity, column) to TopK's order (column, polarity).
        polarity, column = divmod(self._entries.feature, self._n_columns)
        feature = column * len(self._signs) + polarity
        order = np.lexsort((self._entries.token, self._entries.value, feature))
        entries, feature = self._entries.chosen(order), feature[order]
        sizes = np.bincount(feature, minlength=n_features)
        size = sizes[feature]
        rank = np.arange(len(feature)) - (np.cumsum(sizes) - sizes)[feature]
        stratum = feature * (self.n + 1) + rank * np.minimum(size, self.n) // np.maximum(size, 1)
        starts = np.flatnonzero(np.diff(stratum, prepend=-1))
        lowest = np.minimum.reduceat(entries.key, starts) if len(starts) else entries.key
        kept = np.flatnonzero(entries.key == np.repeat(lowest, np.diff(starts, append=len(stratum))))
        kept = kept[np.lexsort((-kept, feature[kept]))]
        bounds = np.searchsorted(feature[kept], np.arange(n_features + 1))
        quantiles = (rank[kept] + 0.5) / size[kept]
        return Sampled(bounds, entries.token[kept], entries.value[kept], quantiles)

    def _offer_dense(self, values: np.ndarray, places: np.ndarray, priority: np.ndarray, at: int, sign: int) -> None:
        """Rows of ascending priority, until every column has had its fill: a few, unless a column is seldom active."""
        order = np.argsort(priority)
        columns = np.arange(self._n_columns)
        needed = np.full(self._n_columns, self._pool)
        start, size = 0, self._pool
        while start < len(order):
            rows = order[start : start + size]
            own = priority[rows]
            accepting = (needed > 0) & (self._limit[at, columns] > own[0])
            columns, needed = columns[accepting], needed[accepting]
            if not len(columns):
                return
            chosen = places[rows]
            block = bits(values[chosen] if len(columns) == self._n_columns else values[np.ix_(chosen, columns)], sign)
            taken = (block > 0) & (own[:, None] < self._limit[at, columns])
            i, j = divmod(np.flatnonzero(taken), len(columns))
            self._pend(at, columns[j], own[i], places[rows[i]], block[i, j].view(values.dtype).astype(np.float32))
            needed = needed - taken.sum(0)
            start, size = start + size, size * 4

    def _offer_sparse(
        self, values: SparseRows, n_tokens: int, places: np.ndarray, priority: np.ndarray, at: int, sign: int
    ) -> None:
        columns, stored = values.columns[values.span], values.values[values.span]
        of_token = np.full(n_tokens, _NEVER)
        of_token[places] = priority
        of_value = np.repeat(of_token, np.diff(values.row_offsets))
        found = np.flatnonzero(of_value < self._limit[at][columns])
        raw = bits(stored[found], sign)
        active = raw > 0
        found = found[active]
        row = np.searchsorted(values.row_offsets, found + values.span.start, side="right") - 1
        self._pend(at, columns[found], of_value[found], row, raw[active].view(stored.dtype).astype(np.float32))

    def _pend(self, at: int, column: np.ndarray, priority: np.ndarray, row: np.ndarray, value: np.ndarray) -> None:
        if len(column):
            feature = column.astype(np.int64) + at * self._n_columns
            self._pending.append(_Entries((feature << 32) | priority, row + self._first, value))
            self._n_pending += len(column)

    def _compact(self) -> None:
        """Keep each feature's lowest priorities; what is above the last of a full pool is not looked at again."""
        parts = [self._entries, *self._pending]
        entries = _Entries(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("key", "token", "value")))
        self._pending, self._n_pending = [], 0
        order = np.argsort(entries.key)  # no two are equal
        feature = entries.feature[order]
        nth = np.arange(len(feature)) - np.searchsorted(feature, np.arange(self._limit.size))[feature]
        self._entries = entries.chosen(order[nth < self._pool])
        last = np.flatnonzero(nth == self._pool - 1)
        self._limit.ravel()[feature[last]] = entries.key[order[last]] & LAST


def _priorities(places: np.ndarray, seed: int) -> Int[np.ndarray, " token"]:
    """A pseudo-random permutation of the 32-bit numbers, from the seed: no two tokens have the same priority."""
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32 & 0xFFFFFFFF)
    return _mixed(_mixed(places.astype(np.uint32) ^ low) ^ high).astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """MurmurHash3's 32-bit finaliser (Appleby, public domain): a bijection whose every bit depends on every bit."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    mixed: np.ndarray = x ^ (x >> np.uint32(16))
    return mixed
