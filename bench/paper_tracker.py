"""The paper's top-k trackers, from their description: as its code has them, and with the two errors put right.

An ascending row of k values for each feature; candidates above its first value are put in one by one. As in its code,
a new maximum overwrites the one before, and an insertion in between moves one value too many: rows lose their order,
and what was among the highest is lost. Reading files and futures are left out: they would only make it slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

THRESHOLD = 0.01
"""Activations below it are not looked at."""


class PaperTracker:
    """The k highest values of each feature, or what is left of them.

    Attributes:
        values: [feature, k].
        places: [feature, k] where each was found; -1 where there is none.
        sums: [feature] of activations above THRESHOLD, if directions are summed.
        n_active: [feature] how many these were.
    """

    def __init__(self, n_features: int, k: int = 64, *, corrected: bool = False, summing: bool = False) -> None:
        self.values, self.places = np.zeros((n_features, k)), np.full((n_features, k), -1)
        self.sums, self.n_active = np.zeros(n_features), np.zeros(n_features, dtype=np.int64)
        self._corrected, self._summing = corrected, summing

    def update(self, feature: int, values: Float[np.ndarray, " found"], places: Int[np.ndarray, " found"]) -> None:
        """Offer activations to one feature."""
        above = values > self.values[feature, 0]
        for value, place in zip(values[above], places[above], strict=True):
            self._insert(feature, value, place)

    def _insert(self, feature: int, value: float, place: int) -> None:
        own, at = self.values[feature], self.places[feature]
        if value <= own[0]:
            return
        found = int(own.searchsorted(value))
        pos = found - 1 if self._corrected else min(found, len(own) - 1)
        if found < len(own) or self._corrected:
            own[:pos], at[:pos] = own[1 : pos + 1], at[1 : pos + 1]
        own[pos], at[pos] = value, place

    def add_directions(self, values: Float[np.ndarray, "token column"], first: int) -> None:
        """One document, column by column; the two signs of a column are features of their own."""
        whole = values.astype(np.float32)
        for column in range(whole.shape[1]):
            for which, sign in enumerate((1, -1)):
                signed = sign * whole[:, column]
                found = np.flatnonzero(signed > THRESHOLD)
                feature, active = 2 * column + which, signed[found]
                if self._summing:
                    self.sums[feature] += active.sum()
                    self.n_active[feature] += len(active)
                self.update(feature, active, found + first)

    def add_codes(self, codes: Float[np.ndarray, "token latent"], first: int) -> None:
        """One document of dense codes, token by token."""
        for t, row in enumerate(codes):
            active = np.flatnonzero(row)
            for latent in active[row[active] > self.values[active, 0]]:
                self._insert(latent, row[latent], first + t)

    def recall(self, places: Int[np.ndarray, "feature k"]) -> float:
        """Share of these contexts that are among those kept, over all features."""
        pairs = zip(self.places, places, strict=True)
        return float(np.mean([np.isin(true, kept).mean() for kept, true in pairs]))
