"""Documents: whole traces, their text once, and every feature's activations on some of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.activations.store import StoredActivations, token_texts
from harness.records import DocumentDivergence
from harness.records.segments import SEGMENTS
from harness.render.dashboard.columns import Columns
from harness.render.dashboard.features import Vocabulary
from harness.render.dashboard.numbers import LEVELS, quantise
from harness.render.dashboard.scripts import ScriptFolder

FULL_TOKENS = 8192
"""Tokens of a feature's full document; of a longer one, those round its strongest token."""

TOP_PER_TOKEN = 4
"""Features listed per token and source on a document's page."""

_BLOCK_VALUES = 1 << 18
_BLOCK_COLUMNS = 256
"""A block of columns is what a page loads to show one of them."""


@dataclass
class Texts:
    """Writes each document's text once, when it is first asked for."""

    scripts: ScriptFolder
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def number(self, stored: StoredActivations, document: str) -> int:
        """The document's number among all that are written; its text is in `documents/NUMBER/text`."""
        key = (stored.set.chat_hash, document)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self.scripts.write(f"documents/{self._numbers[key]}/text", _text_data(stored, document))
        return self._numbers[key]


def full_document(columns: Columns, feature: str, document: str, position: int, texts: Texts) -> dict[str, Any] | None:
    """A feature's activations on a whole document; None where the set has no such column."""
    column = columns.column(feature)
    if column is None:
        return None
    n_tokens = columns.stored.n_tokens([document])
    first = max(0, min(position - FULL_TOKENS // 2, n_tokens - FULL_TOKENS))
    values = columns.window(document, first, min(first + FULL_TOKENS, n_tokens), column)
    return {
        "number": texts.number(columns.stored, document),
        "document": document,
        "first": first,
        "n_tokens": n_tokens,
        "values": quantise(values, float(columns.scale[column])).tolist(),
    }


class Coverage:
    """Which features are strong in which documents, for choosing a few documents that show most features."""

    def __init__(self) -> None:
        self._features: dict[str, set[int]] = defaultdict(set)

    def add(self, feature: int, documents: Sequence[str]) -> None:
        """A feature and the documents of its strongest contexts."""
        for document in documents:
            self._features[document].add(feature)

    def choose(self, n: int, first: Collection[str] = ()) -> list[str]:
        """Up to `n` documents, each the one that shows most features that the earlier ones do not; ties by name.

        Once all features are shown, the ones that show most. All documents of `first` come before others.
        """
        left = dict(sorted(self._features.items()))
        covered: set[int] = set()
        chosen: list[str] = []
        while left and len(chosen) < n:
            best = max(left, key=lambda d: (d in first, len(left[d] - covered), len(left[d])))
            covered |= left.pop(best)
            chosen.append(best)
        return chosen


def block_columns(n_tokens: int) -> int:
    """Columns in a block of a document of so many tokens."""
    return max(8, min(_BLOCK_COLUMNS, _BLOCK_VALUES // max(n_tokens, 1)))


def write_document(
    number: int,
    document: str,
    sources: Mapping[int, Columns],
    index: Mapping[tuple[int, int, int], int],
    scripts: ScriptFolder,
) -> None:
    """A document's activations of every feature of every source, in blocks of columns, and each token's top features.

    Args:
        number: the document's.
        document: its id.
        sources: the source's number -> its columns.
        index: (source, column, sign) -> the feature's place in the catalogue.
        scripts: where to.
    """
    tops: dict[str, Any] = {}
    for source, columns in sources.items():
        n_tokens = columns.stored.n_tokens([document])
        best = _Best(n_tokens)
        for block, (start, levels) in enumerate(_blocks(columns, document, block_columns(n_tokens))):
            scripts.write(f"documents/{number}/{source}-{block}", levels.T.tolist())
            best.add(start, levels)
        tops[str(source)] = best.data(source, index)
    scripts.write(f"documents/{number}/top", tops)


def divergence_data(measured: DocumentDivergence, n_tokens: int) -> dict[str, Any]:
    """The KL of every token of a document as integers, each pair against its own largest; 0 before the first measured.

    Args:
        measured: what the run stored of it.
        n_tokens: tokens of the document.
    """
    pairs = {"adapter": measured.kl_nats, "full": measured.kl_full_nats}
    data: dict[str, Any] = {"first": measured.first, "n_measured": len(measured.kl_nats)}
    for name, kl in pairs.items():
        values = np.zeros(n_tokens)
        values[measured.first : measured.first + len(kl or ())] = kl or ()
        scale = float(values.max(initial=0.0))
        data[name] = None if kl is None else {"scale": scale, "levels": quantise(values, scale).tolist()}
    return data


def _blocks(columns: Columns, document: str, width: int) -> Iterator[tuple[int, np.ndarray]]:
    matrix = columns.matrix(document).tocsc()
    for start in range(0, len(columns.scale), width):
        values = matrix[:, start : start + width].toarray()
        yield start, quantise(values, columns.scale[start : start + width])


class _Best:
    """The features that are strongest on each token, each measured against its own scale."""

    def __init__(self, n_tokens: int) -> None:
        self._levels = np.zeros((n_tokens, TOP_PER_TOKEN), dtype=np.int64)
        self._columns = np.zeros((n_tokens, TOP_PER_TOKEN), dtype=np.int64)

    def add(self, start: int, levels: np.ndarray) -> None:
        both = np.concatenate([self._levels, levels], axis=1)
        names = np.broadcast_to(np.arange(start, start + levels.shape[1]), levels.shape)
        columns = np.concatenate([self._columns, names], axis=1)
        order = np.argsort(-np.abs(both), axis=1, kind="stable")[:, :TOP_PER_TOKEN]
        self._levels = np.take_along_axis(both, order, axis=1)
        self._columns = np.take_along_axis(columns, order, axis=1)

    def data(self, source: int, index: Mapping[tuple[int, int, int], int]) -> list[list[int]]:
        """[token] -> feature, level, feature, level, ...; the strongest first, at least 5 % of its scale."""
        rows = []
        for levels, columns in zip(self._levels.tolist(), self._columns.tolist(), strict=True):
            row: list[int] = []
            for level, column in zip(levels, columns, strict=True):
                feature = index.get((source, column, -1 if level < 0 else 1))
                if abs(level) >= LEVELS // 20 and feature is not None:
                    row += [feature, level]
            rows.append(row)
        return rows


def _text_data(stored: StoredActivations, document: str) -> dict[str, Any]:
    stored_document = stored.document(document)
    words = Vocabulary()
    ids = words.numbers(token_texts(stored_document, 0, len(stored_document.ids)))
    cuts = np.flatnonzero(np.diff(stored_document.segments)) + 1
    starts = [0, *cuts.tolist()] if len(ids) else []
    return {
        "document": document,
        "vocabulary": words.words,
        "tokens": ids,
        "segments": [[at, SEGMENTS[int(stored_document.segments[at])]] for at in starts],
        "uncounted": np.flatnonzero(~stored_document.ranked).tolist(),
    }
