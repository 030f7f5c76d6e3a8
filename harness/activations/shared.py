"""Which features two adapters share: the best correlation of each column of one set with the other set's columns.

Both sets are of the same tokens. The null shuffles the second set's tokens within each document, all columns alike, so
that what is left says how well the best of so many columns correlates by luck and by the document's topic. Its largest
correlation of all pairs is what a column is held against (max-T: Westfall and Young 1993, "Resampling-Based Multiple
Testing"), so that p-values hold for all columns together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.activations.store import StoredActivations
from harness.contract.progress import Progress
from harness.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Rows:
    """Ranked tokens of the documents that several sets share.

    Attributes:
        values: of each set, [token, column], each column centred and of norm 1; a constant column is 0.
        lengths: ranked tokens of each document.
    """

    values: tuple[Float[np.ndarray, "token column"], ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Best:
    """The best partner of each column. `shuffled` is its mean |correlation| with the best partner after a shuffle.

    Attributes:
        partner: [column] index in the other set.
        correlation: [column] with the partner, its sign kept; NaN for a constant column.
        shuffled: [column].
        p_value: [column] share of shuffles, this one counted, whose largest |correlation| of all pairs is as large.
    """

    partner: Int[np.ndarray, " column"]
    correlation: Float[np.ndarray, " column"]
    shuffled: Float[np.ndarray, " column"]
    p_value: Float[np.ndarray, " column"]


def rows_of(sets: Sequence[StoredActivations], max_tokens: int) -> Rows:
    """Ranked tokens of whole documents in order, until there are `max_tokens`; the first document counts in any case.

    Raises:
        DataError: the sets are not of the same tokens.
    """
    documents: list[list[np.ndarray]] = []
    lengths: list[int] = []
    for of_sets in zip(*(s.documents() for s in sets), strict=True):
        first = of_sets[0]
        for other, activations in zip(of_sets[1:], sets[1:], strict=True):
            if other.id != first.id or not np.array_equal(other.ids, first.ids):
                raise DataError(f"{activations.set.source} and {sets[0].set.source} are not of the same text")
        n = int(first.ranked.sum())
        if lengths and sum(lengths) + n > max_tokens:
            break
        documents.append([d.values[first.ranked].astype(np.float32) for d in of_sets])
        lengths.append(n)
    return Rows(tuple(_standardised(np.concatenate(parts)) for parts in zip(*documents, strict=True)), tuple(lengths))


def _standardised(values: Float[np.ndarray, "token column"]) -> Float[np.ndarray, "token column"]:
    centred = values - values.mean(0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=0)
    # Stored values are float16 at best: a column whose spread is rounding of its mean is constant.
    constant = norms <= 1e-6 * np.linalg.norm(values, axis=0)
    scaled: Float[np.ndarray, "token column"] = (centred / np.where(constant, np.inf, norms)).astype(np.float32)
    return scaled


def best_partners(
    first: Float[np.ndarray, "token column"],
    second: Float[np.ndarray, "token other"],
    lengths: Sequence[int],
    n_shuffles: int,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[Best, Best]:
    """The best partners of the first set's columns among the second's, and of the second's among the first's."""
    correlations = first.T @ second
    sums = [np.zeros(n) for n in correlations.shape]
    largest = []
    for order in _orders(lengths, n_shuffles, rng):
        size = np.abs(first.T @ second[order])
        sums = [sums[0] + size.max(1), sums[1] + size.max(0)]
        largest.append(size.max())
        progress.advance()
    return tuple(  # type: ignore[return-value]
        _best(c, s / n_shuffles, np.array(largest)) for c, s in zip((correlations, correlations.T), sums, strict=True)
    )


def largest_correlations(
    values: Float[np.ndarray, "token column"], others: Float[np.ndarray, "token other"]
) -> Float[np.ndarray, " column"]:
    """|correlation| of each column with the other columns' best."""
    largest: Float[np.ndarray, " column"] = np.abs(values.T @ others).max(1)
    return largest


def _best(
    correlations: Float[np.ndarray, "column other"],
    shuffled: Float[np.ndarray, " column"],
    largest: Float[np.ndarray, " shuffle"],
) -> Best:
    partner = np.abs(correlations).argmax(1)
    best = correlations[np.arange(len(partner)), partner]
    as_large = (largest[None, :] >= np.abs(best)[:, None]).sum(1)
    return Best(partner, np.where(best == 0, np.nan, best), shuffled, (1 + as_large) / (len(largest) + 1))


def _orders(lengths: Sequence[int], n: int, rng: np.random.Generator) -> Iterator[Int[np.ndarray, " token"]]:
    """Orders of the tokens, each document's permuted within itself."""
    starts = np.cumsum([0, *lengths[:-1]])
    for _ in range(n):
        yield np.concatenate(
            [start + rng.permutation(length) for start, length in zip(starts, lengths, strict=True)]
        ).astype(np.int64)
