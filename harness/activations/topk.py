"""TopKTracker: the exact k highest activations of every feature in one pass, dense or sparse, at most c of a document.

Every candidate is an int64 key: the bits of its float32 value above, 2^32-1 minus its place in the stream below. Keys
are totally ordered (value descending, then document order, then position), so the result is that of sorting everything,
whatever the shards, and ties are no accident.

Stored values are not converted before they are candidates: of floats of one sign, the bits read as an integer are in
the floats' order. A document costs one pass of integer maxima over blocks of rows; only blocks that hold something
above the feature's k-th key, and above what `cap` other blocks of the document hold, are looked into.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from harness.activations.sparse import SparseRows, widened
from harness.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LAST = np.int64(2**32 - 1)
"""Highest place in a stream."""
_TILE_ROWS = 1024
"""Rows whose float32 copy is in memory at once: more leave the cache, fewer cost more calls."""
_BLOCK_ROWS = 32
_ONE_SIDED = 2**-6
"""Share of the negative in the positive below which it is summed by itself: float32 sums err by some 2^-22."""
_SPARE = 24
"""Keys that a feature takes in beyond its k before the lowest are dropped: dropping is dearer than keeping."""


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


def bits(values: Float[np.ndarray, "*any"], sign: int = 1) -> Int[np.ndarray, "*any"]:
    """`sign` times the values, as signed integers of their size: in the floats' order where they are above 0.

    A view if sign is 1.

    Raises:
        ValueError: neither float16 nor float32.
    """
    if values.dtype not in (np.float16, np.float32):
        raise ValueError(f"activations are float16 or float32, not {values.dtype}")
    raw = values.view(f"i{values.itemsize}")
    return raw if sign > 0 else raw ^ np.iinfo(raw.dtype).min


class TopKTracker:
    """Keeps the k highest activations per feature, at most `cap` of one document, and sums over all tokens."""

    def __init__(self, n_columns: int, *, signed: bool, k: int = 64, cap: int | None = 4) -> None:
        if k < 1 or (cap is not None and cap < 1):
            raise ValueError(f"k and cap must be at least 1 (k={k}, cap={cap})")
        self.k, self.cap, self._n_columns, self._n_signs = k, min(cap or k, k), n_columns, 1 + signed
        # Here all columns' positive features come before all their negative ones.
        n_features = self._n_signs * n_columns
        self._keys = np.zeros((n_features, k + max(_SPARE, self.cap)), dtype=np.int64)
        self._filled = np.zeros(n_features, dtype=np.int64)
        self._sum = np.zeros(n_features)
        self._n_active = np.zeros(n_features, dtype=np.int64)
        self._n_ranked = self._n_seen = 0
        self._real: np.dtype[Any] | None = None
        self._above = np.zeros(0, dtype=np.int32)

    def add_document(self, values: Float[np.ndarray, "token column"] | SparseRows, ranked: np.ndarray) -> None:
        """Take in the next document of the stream.

        Args:
            values: activations, float16 or float32, the same for all documents.
            ranked: bool [token]: which tokens count.

        Raises:
            DataError: the stream has more than 2^32 tokens.
        """
        n = len(ranked)
        if self._n_seen + n > LAST:
            raise DataError("more than 2^32 tokens in one activation set; split it")
        places = np.flatnonzero(ranked) + self._n_seen
        self._n_seen += n
        self._n_ranked += len(places)
        if not len(places):
            return
        self._fix_dtype((values.values if isinstance(values, SparseRows) else values).dtype)
        if isinstance(values, SparseRows):
            self._add_sparse(values, ranked, places)
        else:
            kept = values if len(places) == n else values.take(np.flatnonzero(ranked), axis=0)
            self._add_dense(np.ascontiguousarray(kept), places)

    def result(self) -> TopK:
        """What was found so far."""
        order = np.arange(len(self._keys)).reshape(self._n_signs, self._n_columns).T.ravel()
        keys = np.sort(self._keys, axis=1)[order, : -self.k - 1 : -1]
        values = (keys >> 32).astype(np.int32).view(np.float32)
        tokens = np.where(keys > 0, LAST - (keys & LAST), -1)
        # The highest activation is always among the k highest.
        return TopK(values, tokens, self._sum[order], values[:, 0], self._n_active[order], self._n_ranked)

    def _fix_dtype(self, real: np.dtype[Any]) -> None:
        if self._real is None:
            self._above = bits(np.zeros(len(self._keys), dtype=real))
            self._real = real
        if self._real != real:
            raise ValueError(f"a stream of {self._real} goes on in {real}")

    def _add_dense(self, values: np.ndarray, places: np.ndarray) -> None:
        n = self._n_columns
        for start in range(0, len(values), _TILE_ROWS):
            self._sum += _sums(values[start : start + _TILE_ROWS], self._n_signs)
        raw, rows = bits(values), min(len(values), max(8, min(_BLOCK_ROWS, len(values) // (16 * self.cap))))
        self._n_active[:n] += _count(raw > 0)
        highest = _block_maxima(raw, rows)
        if self._n_signs == 2:
            # Read as unsigned, negative floats are above positive ones, in the order of their magnitudes.
            flip = np.iinfo(raw.dtype).min
            unsigned = raw.view(f"u{raw.itemsize}")
            self._n_active[n:] += _count(unsigned > unsigned.dtype.type(-flip))
            highest = np.concatenate([highest, _block_maxima(unsigned, rows).view(raw.dtype) ^ flip], axis=1)
        features = np.flatnonzero(highest.max(0) > self._above)
        if len(features):
            feature, row, found = _candidates(raw, highest, features, self._above[features], rows, self.cap)
            self._merge(feature, found, places[row])

    def _add_sparse(self, values: SparseRows, ranked: np.ndarray, places: np.ndarray) -> None:
        row = values.row_of_value()
        columns, stored = values.columns[values.span], values.values[values.span]
        if len(places) != len(ranked):
            kept = ranked[row]
            row, columns, stored = row[kept], columns[kept], stored[kept]
        place, raw, features = row + (self._n_seen - len(ranked)), bits(stored), columns
        if self._n_signs == 2:
            features = columns + self._n_columns * (raw < 0)
            raw = raw & np.iinfo(raw.dtype).max
        if not (active := raw > 0).all():
            features, raw, place = features[active], raw[active], place[active]
        self._n_active += np.bincount(features, minlength=len(self._keys))
        self._sum += np.bincount(features, widened(raw.view(stored.dtype)), minlength=len(self._keys))
        found = np.flatnonzero(raw > self._above[features])
        if len(found):
            self._merge(features[found], raw[found], place[found])

    def _merge(self, feature: np.ndarray, raw: np.ndarray, place: np.ndarray) -> None:
        """Bring one document's candidates into the state: the `cap` highest of each feature."""
        feature, raw, place = _sorted(feature, raw, place)
        counts = np.bincount(feature, minlength=len(self._keys))
        nth = np.arange(len(feature)) - (np.cumsum(counts) - counts)[feature]
        kept = np.flatnonzero(nth < self.cap)
        feature, nth = feature[kept], nth[kept]
        magnitudes = raw[kept].view(f"f{raw.itemsize}").astype(np.float32)
        keys = (magnitudes.view(np.int32).astype(np.int64) << 32) | (LAST - place[kept])
        self._keys[feature, self._filled[feature] + nth] = keys
        self._filled += np.minimum(counts, self.cap)
        self._drop(np.flatnonzero(self._filled > self._keys.shape[1] - self.cap))

    def _drop(self, features: np.ndarray) -> None:
        """Make room: of these features only the k highest keys stay."""
        if not len(features):
            return
        keys = np.partition(self._keys[features], -self.k, axis=1)
        keys[:, : self.k] = keys[:, -self.k :]
        keys[:, self.k :] = 0
        self._keys[features] = keys
        self._filled[features] = self.k
        # Equal values that come later lose, so only what is strictly above the k-th can change a full state.
        kth = (keys[:, : self.k].min(1) >> 32).astype(np.int32).view(np.float32)
        self._above[features] = bits(kth.astype(self._real))


def _sorted(feature: np.ndarray, raw: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By feature, then highest value, then first place. All in one integer where it fits: sorting it is much faster."""
    value_bits, first = 8 * raw.itemsize - 1, int(place.min())
    place_bits = int(place.max() - first).bit_length()
    if int(feature.max()).bit_length() + value_bits + place_bits > 63:
        order = np.lexsort((place, -raw.astype(np.int64), feature))
        return feature[order], raw[order], place[order]
    top = (1 << value_bits) - 1
    key = (feature.astype(np.int64) << value_bits) | (top - raw.astype(np.int64))
    key = np.sort((key << place_bits) | (place - first))
    place = (key & ((1 << place_bits) - 1)) + first
    key >>= place_bits
    return key >> value_bits, (top - (key & top)).astype(raw.dtype), place


def _block_maxima(raw: np.ndarray, rows: int) -> np.ndarray:
    """[block, column] maximum of every `rows` rows; the last block may have fewer."""
    whole = len(raw) // rows * rows
    maxima = raw[:whole].reshape(-1, rows, raw.shape[1]).max(1)
    return maxima if whole == len(raw) else np.concatenate([maxima, raw[whole:].max(0, keepdims=True)])


def _candidates(
    raw: np.ndarray, highest: np.ndarray, features: np.ndarray, above: np.ndarray, rows: int, cap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(feature, row, bits) of every entry that can be among its feature's `cap` highest and is above `above`.

    The cap-th highest of some blocks' maxima is not above the cap-th highest entry: what is below it cannot be chosen.
    """
    highest = highest.take(features, axis=1)
    # Few wide blocks bound almost as tightly as many narrow ones; numpy sorts int32 faster than int16.
    wide = _block_maxima(highest, max(1, len(highest) // (2 * cap)))
    if len(wide) >= cap:
        bound = np.sort(wide.T.astype(np.int32), axis=1)[:, -cap].astype(raw.dtype)
        above = np.where(bound > above, bound - 1, above)
    block, nth = divmod(np.flatnonzero(highest > above), len(features))
    feature, row = features[nth], block * rows
    negative, column = divmod(feature, raw.shape[1])
    # The last block may reach beyond the end: it is read from further up, without what the one before it holds.
    start = np.minimum(row, len(raw) - rows)
    # sliding_window_view of the rows, at a tenth of its price
    down, right = raw.strides
    windows = as_strided(raw, (len(raw) - rows + 1, raw.shape[1], rows), (down, right, down), writeable=False)
    values = windows[start, column] ^ (negative.astype(raw.dtype) * np.iinfo(raw.dtype).min)[:, None]
    found = values > above[nth][:, None]
    if len(raw) % rows:
        found &= start[:, None] + np.arange(rows) >= row[:, None]
    at = np.flatnonzero(found)
    i, j = divmod(at, rows)
    return feature[i], start[i] + j, values.ravel()[at]


def _sums(values: np.ndarray, n_signs: int) -> Float[np.ndarray, " feature"]:
    """Sum of each column's positive values and, with two signs, of the magnitudes of its negative ones."""
    # torch converts halves twenty times faster than numpy; of float32 this is the caller's own array.
    tile = torch.from_numpy(values).float()
    if n_signs == 1:
        return tile.clamp(min=0).sum(0).numpy()
    total = tile.sum(0).numpy()
    positive = (tile.clamp_(min=0) if values.dtype == np.float16 else tile.clamp(min=0)).sum(0).numpy()
    negative = positive - total
    # A difference is one pass less, but leaves few digits where a column is nearly all positive.
    few = np.flatnonzero(negative < positive * _ONE_SIDED)
    if len(few):
        negative[few] = -torch.from_numpy(values.take(few, axis=1)).float().clamp(max=0).sum(0).numpy()
    return np.concatenate([positive, negative])


def _count(active: np.ndarray) -> Int[np.ndarray, " column"]:
    """True entries per column. Bytes are added in sets of at most 64 rows, which cannot overflow: faster than int64."""
    bits, width, n_sets = active.view(np.uint8), active.shape[1], len(active) // 64 + 1
    whole = len(active) // n_sets * n_sets
    sets = np.add.reduce(bits[:whole].reshape(-1, n_sets * width), axis=0, dtype=np.uint8).reshape(n_sets, width)
    total: np.ndarray = sets.sum(0, dtype=np.int64) + bits[whole:].sum(0, dtype=np.int64)
    return total
