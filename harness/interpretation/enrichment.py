r"""Which kinds of tokens a feature goes with: odds ratios over all tokens, without anybody's explanation.

For a feature and a kind of token, the table is

                 event      other
    active         a          b
    not active     c          d

and log OR = log(a d / (b c)). Tokens of one document are not independent, so the variance of log OR is that of a sum
over documents (linearised, Binder 1983): with the document's own counts a_k ... d_k,
    u_k = a_k / a - b_k / b - c_k / c + d_k / d,   var(log OR) = K / (K - 1) * sum of u_k^2.
With one token per document this is Woolf's 1/a + 1/b + 1/c + 1/d, which is also its floor here. As u_k is linear in
what is summed per document, ten sums of products are enough: one pass, memory by features x events, not by tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.activations.store import StoredActivations, StoredDocument
from harness.interpretation.events import Event, EventFinder
from harness.records import Enrichment, Estimate, EventAssociation

if TYPE_CHECKING:
    from jaxtyping import Float

_Z = 1.959963984540054  # 97.5 % of the normal distribution


class Tables:
    """The tables of F features and E events, with what their cluster variance needs.

    Attributes:
        n_documents: documents so far.
    """

    def __init__(self, n_features: int, n_events: int) -> None:
        both, by_feature, by_event = (n_features, n_events), (n_features, 1), (1, n_events)
        shapes = {"aa": both, "af": both, "ae": both, "an": both, "fe": both,
                  "ff": by_feature, "fn": by_feature, "ee": by_event, "en": by_event, "nn": (1, 1)}  # fmt: skip
        self._products = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.a, self.f = np.zeros(both), np.zeros(by_feature)
        self.e, self.n = np.zeros(by_event), np.zeros((1, 1))
        self.weight = np.zeros(both)
        self.weight_total = np.zeros(by_feature)
        self.n_documents = 0

    def add(self, values: Float[np.ndarray, "token feature"], active: np.ndarray, events: np.ndarray) -> None:
        """Take in a document.

        Args:
            values: [token, feature] activations, not negative.
            active: [token, feature] whether the feature is active.
            events: [token, event] whether the token is such an event.
        """
        kinds, on = events.astype(np.float32), active.astype(np.float32)
        sums = {
            "a": (on.T @ kinds).astype(np.float64),
            "f": on.sum(0, dtype=np.float64)[:, None],
            "e": kinds.sum(0, dtype=np.float64)[None, :],
            "n": np.full((1, 1), float(len(kinds))),
        }
        for name, product in self._products.items():
            product += sums[name[0]] * sums[name[1]]
        self.a += sums["a"]
        self.f += sums["f"]
        self.e += sums["e"]
        self.n += sums["n"]
        self.weight += values.T @ kinds
        self.weight_total += values.sum(0, dtype=np.float64)[:, None]
        self.n_documents += 1

    def odds_ratios(self) -> OddsRatios:
        """Odds ratios with 95 % intervals and p-values; NaN where a margin is empty."""
        from scipy.special import ndtr

        cells = np.stack(
            np.broadcast_arrays(self.a, self.f - self.a, self.e - self.a, self.n - self.f - self.e + self.a)
        )
        unknown = (cells[0] == 0) & (self.f * self.e < self.n)  # none together, and less than one expected by chance
        margins = (cells[0] + cells[1]) * (cells[2] + cells[3]) * (cells[0] + cells[2]) * (cells[1] + cells[3])
        empty = unknown | (margins == 0)
        cells = np.where((cells == 0).any(0), cells + 0.5, cells)  # Haldane and Anscombe, only where it is needed
        a, b, c, d = cells
        log_or = np.log(a) - np.log(b) - np.log(c) + np.log(d)
        weights = {"a": 1 / a + 1 / b + 1 / c + 1 / d, "f": -1 / b - 1 / d, "e": -1 / c - 1 / d, "n": 1 / d}
        variance = np.zeros_like(log_or)
        for name, product in self._products.items():
            times = 1 if name[0] == name[1] else 2
            variance += times * weights[name[0]] * weights[name[1]] * product
        k = self.n_documents
        # Independent tokens are the floor: a cell of a few documents has no spread between them to measure.
        se = np.sqrt(np.maximum(variance * k / max(k - 1, 1), weights["a"]))
        found = OddsRatios(
            odds_ratio=np.exp(log_or),
            low=np.exp(log_or - _Z * se),
            high=np.exp(log_or + _Z * se),
            p_value=2 * ndtr(-np.abs(log_or) / se),
        )
        for array in vars(found).values():
            array[empty] = np.nan
        return found


@dataclass(frozen=True)
class OddsRatios:
    """[feature, event] each."""

    odds_ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray


def q_values(p_values: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over all p-values that exist; NaN stays."""
    from scipy.stats import false_discovery_control

    adjusted = np.full(p_values.shape, np.nan)
    there = np.isfinite(p_values)
    if there.any():
        adjusted[there] = false_discovery_control(p_values[there])
    return adjusted


@dataclass(frozen=True)
class SourceFeatures:
    """The features of one set, in the order column 0 +, column 0 -, ... if signed.

    Attributes:
        stored: the set.
        thresholds: [feature] activation above which it is active.
        exemplars: [feature] (document, position) of its highest activations.
    """

    stored: StoredActivations
    thresholds: Sequence[float]
    exemplars: Sequence[Sequence[tuple[str, int]]]

    def name(self, row: int) -> str:
        """The feature's name."""
        column, polarity = divmod(row, 2) if self.stored.set.signed else (row, 0)
        return self.stored.columns[column] + ("+-"[polarity] if self.stored.set.signed else "")


def enrich(sources: Sequence[SourceFeatures], finder: EventFinder) -> Iterator[Enrichment]:
    """Enrichment of every feature of every source, in one pass over the documents.

    Args:
        sources: sets over the same documents (a document that a set lacks is left out for it).
        finder: knows the kinds of tokens.
    """
    tables = [Tables(len(s.thresholds), len(finder.events)) for s in sources]
    classes = [[Counter[str]() for _ in s.exemplars] for s in sources]
    wanted: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for i, source in enumerate(sources):
        for row, places in enumerate(source.exemplars):
            for document_id, position in places:
                wanted[document_id].append((i, row, position))
    having = [set(s.stored.document_ids) for s in sources]
    for name in dict.fromkeys(d for s in sources for d in s.stored.document_ids):
        masks = finder.masks(
            next(s.stored for s, ids in zip(sources, having, strict=True) if name in ids).document(name)
        )
        for source, own, ids in zip(sources, tables, having, strict=True):
            if name in ids:
                _add(own, source, source.stored.document(name), masks)
        for i, row, position in wanted[name]:
            found = finder.class_of(masks, position)
            if found is not None:
                classes[i][row][found] += 1
    for source, own, counts in zip(sources, tables, classes, strict=True):
        ratios = own.odds_ratios()
        adjusted = q_values(ratios.p_value)
        for row, known in enumerate(counts):
            yield _record(source, row, own, ratios, adjusted, finder, known)


def _add(tables: Tables, source: SourceFeatures, document: StoredDocument, masks: np.ndarray) -> None:
    ranked = document.ranked
    raw = document.values[ranked].astype(np.float32)
    signs = (1, -1) if source.stored.set.signed else (1,)
    values = np.stack([np.maximum(sign * raw, 0) for sign in signs], axis=2).reshape(len(raw), -1)
    tables.add(values, values > np.asarray(source.thresholds, dtype=np.float32), masks[ranked])


def _record(
    source: SourceFeatures,
    row: int,
    tables: Tables,
    ratios: OddsRatios,
    adjusted: np.ndarray,
    finder: EventFinder,
    known: Counter[str],
) -> Enrichment:
    name, n_exemplars = source.name(row), len(source.exemplars[row])
    top = max(known, key=lambda c: (known[c], c)) if known else None
    why = None if any(e.family == "class" for e in finder.events) else "the corpus has no ground-truth classes"
    return Enrichment(
        item=f"{source.stored.set.source}/{name}",
        source=source.stored.set.source,
        feature=name,
        active_above=float(source.thresholds[row]),
        n_active=int(tables.f[row, 0]),
        n_tokens=int(tables.n[0, 0]),
        n_documents=tables.n_documents,
        top_class=top,
        top_class_share=known[top] / n_exemplars if top else None,
        reason=None
        if top
        else why or ("no exemplar's token has a class" if n_exemplars else "dead: no activating context"),
        events=tuple(_association(e, row, i, tables, ratios, adjusted) for i, e in enumerate(finder.events)),
    )


def _association(
    event: Event, row: int, column: int, tables: Tables, ratios: OddsRatios, adjusted: np.ndarray
) -> EventAssociation:
    total = tables.weight_total[row, 0]
    odds = p_value = q_value = None
    reason: str | None = "no such token"
    if tables.e[0, column]:
        rare = 0 < tables.f[row, 0] < tables.n[0, 0]
        reason = "never together, and less than one is expected by chance" if rare else "never active, or always"
    if np.isfinite(ratios.odds_ratio[row, column]):
        value, low, high = (float(a[row, column]) for a in (ratios.odds_ratio, ratios.low, ratios.high))
        odds = Estimate(value, low, high)
        p_value, q_value = float(ratios.p_value[row, column]), float(adjusted[row, column])
        reason = None
    return EventAssociation(
        family=event.family,
        event=event.name,
        n_event=int(tables.e[0, column]),
        n_both=int(tables.a[row, column]),
        activation_share=float(tables.weight[row, column] / total) if total > 0 else None,
        odds_ratio=odds,
        p_value=p_value,
        q_value=q_value,
        reason=reason,
    )
