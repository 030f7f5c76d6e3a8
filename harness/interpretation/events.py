"""Kinds of tokens: ground-truth classes of the corpus, segments of the document, regular expressions over its text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from harness.activations.store import StoredDocument
from harness.model.chat import SEGMENTS, ChatFormat
from harness.records import Trace

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
        found = np.zeros((len(document.ids), len(self.events)), dtype=bool)
        for start, end, name in self.spans(document):
            found[_overlapping(document, start, end), self._place[Event("class", name)]] = True
        for index, segment in enumerate(SEGMENTS):
            found[:, self._place[Event("segment", segment)]] = document.segments == index
        for name, pattern in zip((e.name for e in self.events if e.family == "event"), self._patterns, strict=True):
            column = self._place[Event("event", name)]
            for match in pattern.finditer(document.text):
                found[_overlapping(document, *match.span()), column] = True
        return found

    def spans(self, document: StoredDocument) -> list[tuple[int, int, str]]:
        """(start, end, class) in characters of the document's text; a part that is not in the text has none."""
        trace = self._traces.get(document.id)
        if trace is None or not trace.spans:
            return []
        chat, text = self._chat, document.text
        places = {
            "question": (text.find(trace.question), 0),
            "trace": (text.find(chat.think_header + trace.trace), len(chat.think_header)),
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


def _overlapping(document: StoredDocument, start: int, end: int) -> slice:
    """Tokens whose characters overlap start..end; none for an empty range."""
    if end <= start:
        return slice(0, 0)
    starts, ends = document.offsets[:, 0], document.offsets[:, 1]
    return slice(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(starts, end, side="left")))
