"""Parts: a document longer than the model's context is read in pieces, none of its tokens is lost."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from harness.model.chat import Document

_PART = re.compile(r"/part\d+$")


@dataclass(frozen=True)
class Part:
    """A document, or a piece of a longer one.

    Attributes:
        document: as the model reads it; a piece begins a new context. The first keeps the trace's id, the others are
            `id/part2`, `id/part3`, ...
        index: 0 is the first.
        n_parts: pieces of the whole document.
    """

    document: Document
    index: int = 0
    n_parts: int = 1


def trace_id(document_id: str) -> str:
    """The trace that a document or a part of one comes from."""
    return _PART.sub("", document_id)


def split_document(document: Document, limit: int | None) -> tuple[Part, ...]:
    """Parts of at most `limit` tokens, cut between characters."""
    n = len(document.ids)
    if limit is None or n <= limit:
        return (Part(document),)
    edges = [0]
    while edges[-1] < n:
        stop = min(edges[-1] + limit, n)
        while stop < n and stop > edges[-1] + 1 and document.offsets[stop][0] < document.offsets[stop - 1][1]:
            stop -= 1  # keep characters whole
        edges.append(stop)
    spans = list(pairwise(edges))
    return tuple(Part(_piece(document, i, *span), i, len(spans)) for i, span in enumerate(spans))


def _piece(document: Document, index: int, start: int, stop: int) -> Document:
    begin = document.offsets[start][0] if start else 0
    end = document.offsets[stop - 1][1] if stop < len(document.ids) else len(document.text)
    return replace(
        document,
        id=document.id if index == 0 else f"{document.id}/part{index + 1}",
        text=document.text[begin:end],
        ids=document.ids[start:stop],
        offsets=tuple((max(a - begin, 0), b - begin) for a, b in document.offsets[start:stop]),
        segments=document.segments[start:stop],
        ranked=document.ranked[start:stop],
    )
