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
_TILE_ROWS = 512
"""Rows whose float32 copy is in memory at once: it stays in the cache."""
_BLOCK_ROWS = 32
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


@dataclass(frozen=True)
class Polarity:
    """One sign of a float, read as integers that are in its order.

    Attributes:
        sign: 1 or -1.
        dtype: integer type of the view.
        zero: the integer of 0; greater integers are activations of this polarity.
        real: the float type viewed.
    """

    sign: int
    dtype: np.dtype[Any]
    zero: int
    real: np.dtype[Any]

    @classmethod
    def of(cls, sign: int, real: np.dtype[Any]) -> Polarity:
        """Positive floats are in the order of signed integers; negative ones in the reverse order of unsigned ones."""
        if real not in (np.float16, np.float32):
            raise ValueError(f"activations are float16 or float32, not {real}")
        bits = 8 * real.itemsize
        return cls(sign, np.dtype(f"{'i' if sign > 0 else 'u'}{real.itemsize}"), 0 if sign > 0 else 1 << bits - 1, real)

    def magnitudes(self, raw: np.ndarray) -> np.ndarray:
        """Integers as the float32 they stand for, never negative."""
        return np.abs(raw.view(self.real)).astype(np.float32)

    def raw(self, magnitudes: np.ndarray) -> np.ndarray:
        """Activations of this polarity as its integers."""
        signless = magnitudes.astype(self.real).view(f"u{self.real.itemsize}")
        return (signless + np.array(self.zero, dtype=signless.dtype)).view(self.dtype)


class TopKTracker:
    """Keeps the k highest activations per feature, at most `cap` of one document, and sums over all tokens."""

    def __init__(self, n_columns: int, *, signed: bool, k: int = 64, cap: int | None = 4) -> None:
        if k < 1 or (cap is not None and cap < 1):
            raise ValueError(f"k and cap must be at least 1 (k={k}, cap={cap})")
        self.k, self.cap, self.signs = k, min(cap or k, k), (1, -1) if signed else (1,)
        shape = (len(self.signs), n_columns)
        self._keys = np.zeros((*shape, k + max(_SPARE, self.cap)), dtype=np.int64)
        self._filled = np.zeros(shape, dtype=np.int64)
        self._sum = np.zeros(shape)
        self._n_active = np.zeros(shape, dtype=np.int64)
        self._n_ranked = self._n_seen = 0
        self._real: np.dtype[Any] | None = None
        self._above: list[np.ndarray] = []

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
        if isinstance(values, SparseRows):
            self._add_sparse(values, ranked, places)
        else:
            kept = values if len(places) == n else values.take(np.flatnonzero(ranked), axis=0)
            self._add_dense(np.ascontiguousarray(kept), places)

    def result(self) -> TopK:
        """What was found so far."""
        highest = np.sort(self._keys, axis=2)[..., : -self.k - 1 : -1]
        keys = highest.transpose(1, 0, 2).reshape(-1, self.k)
        values = (keys >> 32).astype(np.int32).view(np.float32)
        tokens = np.where(keys > 0, LAST - (keys & LAST), -1)
        # The highest activation is always among the k highest.
        return TopK(values, tokens, self._sum.T.ravel(), values[:, 0], self._n_active.T.ravel(), self._n_ranked)

    def _polarities(self, real: np.dtype[Any]) -> list[Polarity]:
        polarities = [Polarity.of(sign, real) for sign in self.signs]
        if self._real is None:
            self._real = real
            self._above = [np.full(self._keys.shape[1], p.zero, dtype=p.dtype) for p in polarities]
        if self._real != real:
            raise ValueError(f"a stream of {self._real} goes on in {real}")
        return polarities

    def _add_dense(self, values: np.ndarray, places: np.ndarray) -> None:
        for start in range(0, len(values), _TILE_ROWS):
            # torch converts halves twenty times faster than numpy; of float32 this is the caller's own array.
            tile = torch.from_numpy(values[start : start + _TILE_ROWS]).float()
            self._sum[0] += tile.clamp(min=0).sum(0).numpy()
            if len(self.signs) == 2:
                self._sum[1] -= tile.clamp(max=0).sum(0).numpy()
        rows = min(len(values), max(8, min(_BLOCK_ROWS, len(values) // (16 * self.cap))))
        for at, polarity in enumerate(self._polarities(values.dtype)):
            raw = values.view(polarity.dtype)
            self._n_active[at] += _count(raw > np.array(polarity.zero, dtype=polarity.dtype))
            highest = _block_maxima(raw, rows)
            columns = np.flatnonzero(highest.max(0) > self._above[at])
            if len(columns):
                column, row, found = _candidates(raw, highest, columns, self._above[at][columns], rows, self.cap)
                self._merge(at, polarity, column, found, places[row])

    def _add_sparse(self, values: SparseRows, ranked: np.ndarray, places: np.ndarray) -> None:
        row = values.row_of_value()
        columns, stored = values.columns[values.span], values.values[values.span]
        if len(places) != len(ranked):
            kept = ranked[row]
            row, columns, stored = row[kept], columns[kept], stored[kept]
        place = row + (self._n_seen - len(ranked))
        for at, polarity in enumerate(self._polarities(stored.dtype)):
            raw = stored.view(polarity.dtype)
            active = raw > np.array(polarity.zero, dtype=polarity.dtype)
            everything = bool(active.all())
            own = columns if everything else columns[active]
            magnitudes = np.abs(widened(stored if everything else stored[active]))
            width = self._keys.shape[1]
            self._n_active[at] += np.bincount(own, minlength=width)
            self._sum[at] += np.bincount(own, magnitudes, minlength=width)
            found = np.flatnonzero(raw > self._above[at][columns])
            if len(found):
                self._merge(at, polarity, columns[found], raw[found], place[found])

    def _merge(self, at: int, polarity: Polarity, column: np.ndarray, raw: np.ndarray, place: np.ndarray) -> None:
        """Bring one document's candidates into the state: the `cap` highest of each column."""
        bits = raw - np.array(polarity.zero, dtype=polarity.dtype)
        column, bits, place = _sorted(column, bits, place)
        counts = np.bincount(column, minlength=self._keys.shape[1])
        nth = np.arange(len(column)) - (np.cumsum(counts) - counts)[column]
        kept = np.flatnonzero(nth < self.cap)
        column, nth = column[kept], nth[kept]
        magnitudes = bits[kept].view(polarity.real).astype(np.float32)
        keys = (magnitudes.view(np.int32).astype(np.int64) << 32) | (LAST - place[kept])
        filled = self._filled[at]
        self._keys[at, column, filled[column] + nth] = keys
        filled += np.minimum(counts, self.cap)
        self._drop(at, polarity, np.flatnonzero(filled > self._keys.shape[2] - self.cap))

    def _drop(self, at: int, polarity: Polarity, columns: np.ndarray) -> None:
        """Make room: of these columns only the k highest keys stay."""
        if not len(columns):
            return
        keys = np.partition(self._keys[at, columns], -self.k, axis=1)
        keys[:, : self.k] = keys[:, -self.k :]
        keys[:, self.k :] = 0
        self._keys[at, columns] = keys
        self._filled[at, columns] = self.k
        # Equal values that come later lose, so only what is strictly above the k-th can change a full state.
        kth = (keys[:, : self.k].min(1) >> 32).astype(np.int32).view(np.float32)
        self._above[at][columns] = polarity.raw(kth)


def _sorted(column: np.ndarray, bits: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By column, then highest value, then first place. All in one integer where it fits: sorting it is much faster."""
    value_bits, first = 8 * bits.itemsize - 1, int(place.min())
    place_bits = int(place.max() - first).bit_length()
    if int(column.max()).bit_length() + value_bits + place_bits > 63:
        order = np.lexsort((place, -bits.astype(np.int64), column))
        return column[order], bits[order], place[order]
    top = (1 << value_bits) - 1
    key = (column.astype(np.int64) << value_bits) | (top - bits.astype(np.int64))
    key = np.sort((key << place_bits) | (place - first))
    place = (key & ((1 << place_bits) - 1)) + first
    key >>= place_bits
    return key >> value_bits, (top - (key & top)).astype(bits.dtype), place


def _block_maxima(raw: np.ndarray, rows: int) -> np.ndarray:
    """[block, column] maximum of every `rows` rows; the last block may have fewer."""
    whole = len(raw) // rows * rows
    maxima = raw[:whole].reshape(-1, rows, raw.shape[1]).max(1)
    return maxima if whole == len(raw) else np.concatenate([maxima, raw[whole:].max(0, keepdims=True)])


def _candidates(
    raw: np.ndarray, highest: np.ndarray, columns: np.ndarray, above: np.ndarray, rows: int, cap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(column, row, value) of every entry that can be among its column's `cap` highest and is above `above`.

    The cap-th highest of some blocks' maxima is not above the cap-th highest entry: what is below it cannot be chosen.
    """
    highest = highest.take(columns, axis=1)
    # Few wide blocks bound almost as tightly as many narrow ones; numpy sorts int32 faster than int16. The negative
    # polarity of float32 does not fit int32: wrapped, what is inactive would rank above what is active.
    wide = _block_maxima(highest, max(1, len(highest) // (2 * cap)))
    if len(wide) >= cap:
        sortable = np.int64 if raw.dtype == np.uint32 else np.int32
        bound = np.sort(wide.T.astype(sortable), axis=1)[:, -cap].astype(raw.dtype)
        above = np.where(bound > above, bound - 1, above)
    block, nth = divmod(np.flatnonzero(highest > above), len(columns))
    column, row = columns[nth], block * rows
    # The last block may reach beyond the end: it is read from further up, without what the one before it holds.
    start = np.minimum(row, len(raw) - rows)
    # sliding_window_view of the rows, at a tenth of its price
    down, right = raw.strides
    windows = as_strided(raw, (len(raw) - rows + 1, raw.shape[1], rows), (down, right, down), writeable=False)
    values = windows[start, column]
    found = values > above[nth][:, None]
    if len(raw) % rows:
        found &= start[:, None] + np.arange(rows) >= row[:, None]
    at = np.flatnonzero(found)
    i, j = divmod(at, rows)
    return column[i], start[i] + j, values.ravel()[at]


def _count(active: np.ndarray) -> Int[np.ndarray, " column"]:
    """True entries per column. Bytes are added in groups that cannot overflow: ten times faster than in int64."""
    bits, n = active.view(np.uint8), len(active) // 255 * 255
    groups = np.add.reduce(bits[:n].reshape(-1, 255, bits.shape[1]), axis=1, dtype=np.uint8)
    rest = np.add.reduce(bits[n:], axis=0, dtype=np.uint8)
    total: np.ndarray = groups.sum(0, dtype=np.int64) + rest
    return total
