"""Kinds of tokens: ground-truth classes of the corpus, segments of the document, regular expressions over its text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from harness.activations.store import StoredDocument
from harness.model.chat import ChatFormat
from harness.records import Trace
from harness.records.segments import SEGMENTS

if TYPE_CHECKING:
    from jaxtyping import Bool

Family = Literal["class", "segment", "event"]


class Event(NamedTuple):
    """A kind of token."""

    family: Family
    name: str


class EventFinder:
    """Finds which tokens of a document are of which kind.

    Attributes:
        events: the kinds, in the order of the masks' columns.
    """

    def __init__(self, patterns: Mapping[str, str], traces: Sequence[Trace], chat: ChatFormat) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns.values()]
        self._traces = {trace.id: trace for trace in traces}
        self._chat = chat
        classes = sorted({name for t in traces for spans in t.spans.values() for _, _, name in spans})
        self.events = (
            *(Event("class", name) for name in classes),
            *(Event("segment", name) for name in SEGMENTS),
            *(Event("event", name) for name in patterns),
        )
        self._place = {event: i for i, event in enumerate(self.events)}

    def masks(self, document: StoredDocument) -> Bool[np.ndarray, "token event"]:
        """Whether each token is of each kind. A token that overlaps two spans is of both."""
        ranges = [(a, b, self._place[Event("class", name)]) for a, b, name in self.spans(document)]
        for name, pattern in zip((e.name for e in self.events if e.family == "event"), self._patterns, strict=True):
            column = self._place[Event("event", name)]
            ranges += [(*match.span(), column) for match in pattern.finditer(document.text)]
        found = _covered(document, ranges, len(self.events))
        for index, segment in enumerate(SEGMENTS):
            found[:, self._place[Event("segment", segment)]] = document.segments == index
        return found

    def spans(self, document: StoredDocument) -> list[tuple[int, int, str]]:
        """(start, end, class) in characters of the document's text; a part that is not in the text has none."""
        trace = self._traces.get(document.id)
        if trace is None or not trace.spans:
            return []
        chat, text, header = self._chat, document.text, self._chat.own_marks.think_header
        places = {
            "question": (text.find(trace.question), 0),
            "trace": (text.find(header + trace.trace), len(header)),
            "answer": (text.rfind(chat.answer_prefix + trace.answer), len(chat.answer_prefix)),
        }
        return [
            (at + skip + start, at + skip + end, name)
            for part, (at, skip) in places.items()
            if at >= 0
            for start, end, name in trace.spans.get(part, ())
        ]

    def class_of(self, masks: Bool[np.ndarray, "token event"], position: int) -> str | None:
        """The ground-truth class of one token of a document with these masks; None where it has none."""
        return next((e.name for e in self.events if e.family == "class" and masks[position, self._place[e]]), None)


def _covered(
    document: StoredDocument, ranges: Sequence[tuple[int, int, int]], n_columns: int
) -> Bool[np.ndarray, "token column"]:
    """Per column, the tokens that overlap one of its (start, end, column) character ranges; empty ranges have none."""
    steps = np.zeros((len(document.ids) + 1, n_columns), dtype=np.int32)
    full = np.array([r for r in ranges if r[1] > r[0]], dtype=np.int64).reshape(-1, 3)
    first = np.searchsorted(document.offsets[:, 1], full[:, 0], side="right")
    after = np.searchsorted(document.offsets[:, 0], full[:, 1], side="left")
    np.add.at(steps, (first, full[:, 2]), 1)
    np.add.at(steps, (np.maximum(first, after), full[:, 2]), -1)
    covered: Bool[np.ndarray, "token column"] = steps.cumsum(0)[:-1] > 0
    return covered
