r"""Purity and recall: what explanations are worth over all of a feature's activation, not its highest contexts.

With activation v_t of token t and c_t = 1 where the explanation holds on it, over all ranked tokens,
    purity = sum v_t c_t / sum v_t,          recall = #(v_t > 0 and c_t) / #(c_t),
and the same with v_t set to 0 up to a threshold that makes all features equally sparse. An explanation that is a rule
is held against every token, in one pass over the documents; memory is by features, not by tokens.

Tokens of one document are not independent. Each number is a ratio of sums over documents, whose linearised variance
(Cochran 1977, 6.4) needs three sums of products. The interval is Wilson's with as many cases as have that variance
(Korn & Graubard 1998) and Student's quantile, so that it stays within 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from harness.activations.sparse import SparseRows, widened
from harness.activations.store import StoredActivations, StoredDocument, token_texts
from harness.contract.stages import TokenMasks
from harness.records import PLANTED, Estimate, Explanation, Feature

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_SAMPLED_VALUES = 1 << 26
"""Most values of a source that are held to find thresholds."""


class Ratios:
    """Ratios of sums over documents with their intervals, of several kinds for each of F features."""

    def __init__(self, n_kinds: int, n_features: int) -> None:
        self._sums = np.zeros((6, n_kinds, n_features))

    def add(self, above: Float[np.ndarray, "kind feature"], below: Float[np.ndarray, "kind feature"]) -> None:
        """Take in a document's numerators and denominators."""
        for total, term in zip(
            self._sums, (above, below, above * above, above * below, below * below, below > 0), strict=True
        ):
            total += term

    def estimates(self) -> list[list[Estimate | None]]:
        """Per kind and feature; None where the denominator is 0. One document says nothing of others: 0 to 1."""
        from scipy.special import stdtrit

        above, below, squares, products, below_squares, n = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            share = above / below
            residuals = np.maximum(squares - 2 * share * products + share**2 * below_squares, 0)
            variance = residuals * n / (n - 1) / below**2
            spread = share * (1 - share)
            # without any spread between documents, each of them is one case
            cases = np.where(variance > 1e-12 * spread, np.where(spread > 0, spread / variance, n), n)
            low, high = wilson(share, cases, stdtrit(np.maximum(n - 1, 1), 0.975))
        low, high = np.where(n > 1, np.minimum(low, share), 0), np.where(n > 1, np.maximum(high, share), 1)
        return [
            [Estimate(*bounds) if total > 0 else None for *bounds, total in zip(*kind, strict=True)]
            for kind in np.stack([share, low, high, below], axis=1).tolist()
        ]


def wilson(share: np.ndarray, n: np.ndarray, z: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of shares of n cases, which need not be whole."""
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.clip((middle - half) / scale, 0, 1), np.clip((middle + half) / scale, 0, 1)


@dataclass(frozen=True)
class ExplainedSource:
    """Features of one set that have an explanation and are not dead.

    Attributes:
        stored: the set.
        features: with their exemplars.
        explanations: of each.
    """

    stored: StoredActivations
    features: Sequence[Feature]
    explanations: Sequence[Explanation]

    def places(self) -> tuple[Int[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
        """Column of each feature, and its sign."""
        index = {name: i for i, name in enumerate(self.stored.columns)}
        signed = self.stored.set.signed
        columns = [index[f.feature[:-1] if signed else f.feature] for f in self.features]
        signs = [-1 if signed and f.feature.endswith("-") else 1 for f in self.features]
        return np.array(columns, dtype=np.int64), np.array(signs, dtype=np.float32)


@dataclass(frozen=True)
class Whole:
    """What the pass over one source found; arrays are per feature.

    Attributes:
        thresholds: activation from which a feature is active when densities are matched.
        n_documents: documents.
        n_tokens: ranked tokens.
        n_active: of these, with an activation.
        n_strong: of these, above the threshold.
        n_covered: of the ranked tokens, those on which the rule holds.
        weak_share: share of the activation up to the threshold.
        purity: ratios, and so on.
    """

    thresholds: Float[np.ndarray, " feature"]
    n_documents: int
    n_tokens: int
    n_active: Int[np.ndarray, " feature"]
    n_strong: Int[np.ndarray, " feature"]
    n_covered: Int[np.ndarray, " feature"]
    weak_share: Float[np.ndarray, " feature"]
    purity: list[Estimate | None]
    recall: list[Estimate | None]
    matched_purity: list[Estimate | None]
    matched_recall: list[Estimate | None]


def matched_density(sources: Sequence[ExplainedSource]) -> float:
    """The density that all features are brought down to: the median of the source with the lowest one.

    Planted features, which are made, do not count.
    """
    real = [s for s in sources if s.stored.set.source != PLANTED and s.features]
    return min((float(np.median([f.density_per_token for f in s.features])) for s in real), default=1.0)


def thresholds(source: ExplainedSource, density: float, n_tokens: int, seed: int) -> Float[np.ndarray, " feature"]:
    """Activation that about `density` of the tokens exceed, per feature; 0 where a feature is as sparse as that.

    More exceed it where many are equal.

    Found on documents drawn at random, some `n_tokens` tokens of them.
    """
    found = np.zeros(len(source.features), dtype=np.float32)
    dense = np.flatnonzero([f.density_per_token > density for f in source.features])
    if not len(dense):
        return found
    columns, signs = (array[dense] for array in source.places())
    limit = min(n_tokens, _SAMPLED_VALUES // len(dense))
    ids = sorted(source.stored.document_ids)
    Random(seed).shuffle(ids)
    parts, n = [], 0
    for name in ids:
        document = source.stored.document(name)
        parts.append(np.maximum(document.values[document.ranked][:, columns].astype(np.float32) * signs, 0))
        n += len(parts[-1])
        if n >= limit:
            break
    by_feature = np.ascontiguousarray(np.concatenate(parts).T)
    at = n - max(round(density * n), 1)
    # just below a value that occurs: of equal values all stay, so that something does
    found[dense] = np.maximum(np.nextafter(np.partition(by_feature, at, axis=1)[:, at], np.float32(0)), 0)
    return found


class _Sums:
    """The sums of one source."""

    def __init__(self, source: ExplainedSource, limits: np.ndarray, rule: np.ndarray) -> None:
        self._source, self._limits, self._rule = source, limits, rule
        self._columns, self._signs = source.places()
        n = len(source.features)
        self._ratios, self._totals = Ratios(4, n), np.zeros((5, n))
        self._n_tokens = self._n_documents = 0
        self._feature_of = {}
        if source.stored.sparse:
            for sign in set(self._signs.tolist()):
                own = np.flatnonzero(self._signs == sign)
                self._feature_of[sign] = np.full(len(source.stored.columns), -1)
                self._feature_of[sign][self._columns[own]] = own

    def add(self, document: StoredDocument, masks: Float[np.ndarray, "token rule"]) -> None:
        """Take in a document; `masks` are 1 where a rule holds on a ranked token."""
        values = document.activations
        sums = self._sparse(values, masks, document.ranked) if isinstance(values, SparseRows) else self._dense(
            values, masks, document.ranked
        )  # fmt: skip
        weight, held, active, both, strong_weight, strong_held, strong, strong_both = np.stack(sums).astype(np.float64)
        covered = (np.ones(len(masks), dtype=np.float32) @ masks).astype(np.float64)[self._rule]
        below = np.stack([weight, covered, strong_weight, covered])
        self._ratios.add(np.stack([held, both, strong_held, strong_both]), below)
        self._totals += (weight, strong_weight, active, strong, covered)
        self._n_tokens += int(document.ranked.sum())
        self._n_documents += 1

    def _dense(self, stored: np.ndarray, masks: np.ndarray, ranked: np.ndarray) -> Sequence[np.ndarray]:
        values = np.maximum(stored[ranked][:, self._columns].astype(np.float32) * self._signs, 0)
        holds = masks[ranked][:, self._rule]
        active, strong = ((values > limit).astype(np.float32) for limit in (0, self._limits))
        held, above, every = values * holds, values * strong, np.ones(len(values), dtype=np.float32)
        # products with ones are the quickest sums; counts below 2^24 are exact in float32
        return [
            every @ terms
            for terms in (values, held, active, active * holds, above, above * holds, strong, strong * holds)
        ]

    def _sparse(self, stored: SparseRows, masks: np.ndarray, ranked: np.ndarray) -> Sequence[np.ndarray]:
        sums = np.zeros((8, len(self._columns)))
        for sign, feature_of in self._feature_of.items():
            token, feature = stored.row_of_value(), feature_of[stored.columns[stored.span]]
            value = sign * widened(stored.values[stored.span])
            kept = np.flatnonzero(ranked[token] & (feature >= 0) & (value > 0))
            token, feature, value = token[kept], feature[kept], value[kept]
            holds, strong = masks[token, self._rule[feature]], value > self._limits[feature]
            above, one = value * strong, np.ones(len(value))
            for total, terms in zip(
                sums, (value, value * holds, one, holds, above, above * holds, strong, strong * holds), strict=True
            ):
                total += np.bincount(feature, terms, len(self._columns))
        return list(sums)

    def result(self) -> Whole:
        """What was found."""
        weight, strong_weight, *counts = self._totals
        n_active, n_strong, n_covered = (n.astype(np.int64) for n in counts)
        purity, recall, matched_purity, matched_recall = self._ratios.estimates()
        return Whole(
            thresholds=self._limits,
            n_documents=self._n_documents,
            n_tokens=self._n_tokens,
            n_active=n_active,
            n_strong=n_strong,
            n_covered=n_covered,
            weak_share=1 - strong_weight / np.maximum(weight, np.finfo(np.float64).tiny),
            purity=purity,
            recall=recall,
            matched_purity=matched_purity,
            matched_recall=matched_recall,
        )


def cover(
    sources: Sequence[ExplainedSource], masks_of: Mapping[str, int], masks: TokenMasks | None,
    limits: Sequence[np.ndarray],
) -> Iterator[Whole]:  # fmt: skip
    """One pass over the documents of all sources; a Whole per source.

    Args:
        sources: sets over the same documents (a document that a set lacks is left out for it).
        masks_of: rule -> its column in the masks. An explanation without a rule covers nothing here.
        masks: of a document's tokens; None where there are no rules.
        limits: per source, the thresholds of matched densities.
    """
    n = len(masks_of)
    rules = [np.array([masks_of.get(e.rule or "", n) for e in s.explanations], dtype=np.int64) for s in sources]
    sums = [_Sums(*given) for given in zip(sources, limits, rules, strict=True)]
    having = [set(s.stored.document_ids) for s in sources]
    for name in dict.fromkeys(d for s in sources for d in s.stored.document_ids):
        found: np.ndarray | None = None
        for source, own, ids in zip(sources, sums, having, strict=True):
            if name in ids and source.features:
                document = source.stored.document(name)
                if found is None:
                    found = np.zeros((len(document.ids), n + 1), dtype=np.float32)
                    if masks is not None:
                        held = masks(token_texts(document, 0, len(document.ids)))
                        found[document.ranked, :n] = held[document.ranked]
                own.add(document, found)
    yield from (own.result() for own in sums)
