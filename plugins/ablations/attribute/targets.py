"""Which tokens of which documents are attributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from harness.model.batching import padded

from .gradients import Targets

if TYPE_CHECKING:
    from harness.model.blocks import Inputs
    from harness.model.chat import Document
    from harness.model.subject import Subject
    from harness.records.attribute import SpanName


@dataclass(frozen=True)
class Item:
    """One thing that is attributed.

    Attributes:
        document: whose.
        positions: of the tokens whose outcome it is.
        foils: the tokens that a logit difference compares them with.
        whole: whether it is the whole span.
    """

    document: Document
    positions: tuple[int, ...]
    foils: tuple[int, ...]
    whole: bool = False

    @property
    def name(self) -> str:
        """The document and the token."""
        return f"{self.document.id}:{'span' if self.whole else self.positions[0]}"

    @property
    def n_read(self) -> int:
        """Tokens that are read: all before the last target."""
        return self.positions[-1]


def span_of(document: Document, span: SpanName, max_tokens: int) -> tuple[int, ...]:
    """Positions of the span's tokens, within the first `max_tokens`."""
    segments = {"trace": ("think",), "answer": ("answer",)}.get(span, ("think", "answer"))
    return tuple(
        i
        for i, (segment, ranked) in enumerate(zip(document.segments, document.ranked, strict=True))
        if 0 < i < max_tokens and segment in segments and (ranked or span == "response")
    )


def batch_of(items: Sequence[Item], subject: Subject, *, mean: bool) -> tuple[Inputs, Targets]:
    """Items as a padded batch, each read up to its last target.

    Args:
        items: a row each.
        subject: its tokenizer pads, on its device.
        mean: whether a row's outcome is the mean over its targets, not their sum.
    """
    read = [replace(i.document, ids=i.document.ids[: i.n_read]) for i in items]
    of_row = [(row, p, i.document.ids[p], f, 1 / len(i.positions) if mean else 1.0)
              for row, i in enumerate(items) for p, f in zip(i.positions, i.foils, strict=True)]  # fmt: skip
    rows, positions, tokens, foils, weights = zip(*of_row, strict=True)
    whole = [torch.tensor(v, device=subject.device) for v in (rows, positions, tokens, foils)]
    targets = Targets(whole[0], whole[1] - 1, whole[2], whole[3], torch.tensor(weights, device=subject.device))
    return padded(read, subject.tokenizer, subject.device), targets
