"""Feature data for the browser: a catalogue to search and sort, and shards with everything else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any

import numpy as np

from harness.render.dashboard.columns import Columns
from harness.render.dashboard.numbers import quantise, short
from harness.render.dashboard.scores import main_score
from harness.render.dashboard.stored import CatalogueRow, ContextRow, ExplanationRow, ScoreRow

SHARD_FEATURES = 32
"""Features per shard. Opening a feature's page loads one shard."""

STRONG = 0.5
"""A feature is found by the tokens that activate it at least half as much as its strongest one."""


class Vocabulary:
    """Numbers strings in order of first use."""

    def __init__(self) -> None:
        self._index: defaultdict[str, int] = defaultdict(count().__next__)

    def __call__(self, text: str) -> int:
        """The string's number."""
        return self._index[text]

    def numbers(self, texts: Iterable[str]) -> list[int]:
        """Each string's number."""
        return list(map(self._index.__getitem__, texts))

    @property
    def words(self) -> list[str]:
        """All strings in order."""
        return list(self._index)


class Catalogue:
    """Collects what the feature browser shows of every feature, column by column."""

    def __init__(self) -> None:
        self._tokens, self._projections, self._categories = Vocabulary(), Vocabulary(), Vocabulary()
        self._sources, self._interpreters = Vocabulary(), Vocabulary()
        self._columns: dict[str, list[Any]] = {
            name: []
            for name in ("source", "feature", "layer", "projection", "density", "max", "sum", "n_tokens", "scale",
                         "column", "n_contexts", "tokens", "explanations")
        }  # fmt: skip

    def add(
        self,
        row: CatalogueRow,
        contexts: Sequence[ContextRow],
        explained: Sequence[ExplanationRow],
        scored: Sequence[ScoreRow],
        columns: Columns | None,
    ) -> None:
        """The next feature."""
        column = columns.column(row.feature) if columns else None
        highest = [c for c in contexts if c.quantile is None]
        values = {
            "source": self._sources(row.source),
            "feature": row.feature,
            "layer": row.layer,
            "projection": None if row.projection is None else self._projections(row.projection),
            "density": short(row.density_per_token),
            "max": short(row.activation_max),
            "sum": short(row.activation_sum),
            "n_tokens": row.n_tokens,
            "scale": short(scale_of(row, columns)),
            "column": column,
            "n_contexts": len(highest),
            "tokens": self._tokens.numbers(strong_tokens(highest)),
            "explanations": [
                [
                    self._interpreters(e.interpreter),
                    e.explanation,
                    e.grade,
                    None if e.category is None else self._categories(e.category_name or e.category),
                    short(main_score(scored, e.interpreter)),
                    short(e.coverage["purity"]) if e.coverage else None,
                ]
                for e in explained
            ],
        }
        for name, value in values.items():
            self._columns[name].append(value)

    def data(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            **self._columns,
            "shard_features": SHARD_FEATURES,
            "vocabulary": {
                "tokens": self._tokens.words,
                "sources": self._sources.words,
                "projections": self._projections.words,
                "categories": self._categories.words,
                "interpreters": self._interpreters.words,
            },
        }


def strong_tokens(contexts: Sequence[ContextRow]) -> list[str]:
    """Distinct tokens of the contexts that activate the feature strongly (`STRONG`), the most frequent first."""
    top = max((max(c.activations, default=0.0) for c in contexts), default=0.0)
    counts: Counter[str] = Counter()
    for c in contexts:
        counts.update([t for t, v in zip(c.tokens, c.activations, strict=True) if v >= STRONG * top and v > 0])
        if c.activations[c.target] < STRONG * top:
            counts[c.tokens[c.target]] += 1
    return [token for token, _ in counts.most_common()]


def scale_of(row: CatalogueRow, columns: Columns | None) -> float:
    """The scale of a feature's integers: the largest activation of its column, of either sign."""
    column = columns.column(row.feature) if columns else None
    return row.activation_max if columns is None or column is None else float(columns.scale[column])


def contexts_of(
    row: CatalogueRow, contexts: Sequence[ContextRow], columns: Columns | None, words: Vocabulary
) -> dict[str, Any]:
    """A feature's contexts as columns of numbers; tokens and values of all contexts one after the other.

    Values have both signs where the activations are on disk, else only the feature's own.
    """
    documents = Vocabulary()
    column = columns.column(row.feature) if columns else None
    scale = scale_of(row, columns)
    negative = row.feature.endswith("-")  # without the stored set, only the name tells the polarity
    if columns is not None and column is not None and columns.signed:
        windows = [columns.window(c.document, c.start, c.start + len(c.tokens), column) for c in contexts]
        activations = np.concatenate(windows) if windows else np.zeros(0, dtype=np.float32)
    else:
        activations = np.array([v for c in contexts for v in c.activations], dtype=np.float32)
        activations *= -1 if negative else 1
    return {
        "document": [documents(c.document) for c in contexts],
        "documents": documents.words,
        "position": [c.position for c in contexts],
        "start": [c.start for c in contexts],
        "target": [c.target for c in contexts],
        "peak": [short(c.activations[c.target]) for c in contexts],
        "n_identical": [c.n_identical for c in contexts],
        "quantile": [short(c.quantile) for c in contexts],
        "length": [len(c.tokens) for c in contexts],
        "tokens": words.numbers(chain.from_iterable(c.tokens for c in contexts)),
        "values": quantise(activations, scale).tolist(),
        "both_signs": column is not None and columns is not None and columns.signed,
    }


def explanation_data(explained: Sequence[ExplanationRow]) -> list[dict[str, Any]]:
    """Explanations as JSON, every field."""
    return [dict(vars(e)) for e in explained]
