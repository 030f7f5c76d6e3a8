"""The text that ablations are measured on: drawn traces as padded batches, each token labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from harness.errors import DataError
from harness.model.blocks import Inputs
from harness.model.chat import SEGMENTS, Document
from harness.records import Trace

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from harness.model.subject import Subject

    from .config import KLConfig


@dataclass(frozen=True)
class Batch:
    """Documents padded on the right to one length. `bins`, `targets`, `has_target`: one entry per token that counts.

    Attributes:
        documents: index of each row's document.
        inputs: token ids and mask of the model.
        mask: which tokens count.
        bins: document index * number of segments + segment, of each token.
        targets: the token that follows; 0 where `has_target` is false.
        has_target: whether one follows.
    """

    documents: tuple[int, ...]
    inputs: Inputs
    mask: Bool[torch.Tensor, "document token"]
    bins: Int[torch.Tensor, " counted"]
    targets: Int[torch.Tensor, " counted"]
    has_target: Bool[torch.Tensor, " counted"]

    def on(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(
            self.documents,
            {name: value.to(device) for name, value in self.inputs.items()},
            *(t.to(device) for t in (self.mask, self.bins, self.targets, self.has_target)),
        )


@dataclass(frozen=True)
class Texts:
    """All documents.

    Attributes:
        ids: of the documents.
        n_tokens: tokens read of each document, by segment: [document, segment].
        n_targets: of those, how many are followed by another token: [document].
        batches: the documents in batches of similar length.
    """

    ids: tuple[str, ...]
    n_tokens: Int[torch.Tensor, "document segment"]
    n_targets: Int[torch.Tensor, " document"]
    batches: tuple[Batch, ...]

    def on(self, device: str) -> Texts:
        """The same with the batches on a device."""
        return replace(self, batches=tuple(b.on(device) for b in self.batches))


def choose(traces: Sequence[Trace], n: int, generator: torch.Generator) -> list[Trace]:
    """`n` traces drawn without replacement, sorted by id; all where there are fewer.

    Raises:
        DataError: there are no traces.
    """
    if not traces:
        raise DataError("there are no traces to measure on")
    drawn = torch.randperm(len(traces), generator=generator)[:n].tolist()
    return sorted((traces[i] for i in drawn), key=lambda t: t.id)


def read_texts(subject: Subject, traces: Sequence[Trace], config: KLConfig, generator: torch.Generator) -> Texts:
    """Choose traces, render and tokenise them.

    Raises:
        DataError: there are no traces.
    """
    chosen = choose(traces, config.n_documents, generator)
    documents = [subject.chat.document(subject.tokenizer, t) for t in chosen]
    return texts_of(documents, config, subject.tokenizer.pad_token_id)


def texts_of(documents: Sequence[Document], config: KLConfig, pad: int | None) -> Texts:
    """Documents as batches on the CPU, their first `max_tokens` tokens each."""
    lengths = [min(len(d.ids), config.max_tokens) for d in documents]
    order = sorted(range(len(documents)), key=lambda i: -lengths[i])
    rows = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    counts = [
        [sum(s == name for s in d.segments[:n]) for name in SEGMENTS] for d, n in zip(documents, lengths, strict=True)
    ]
    return Texts(
        ids=tuple(d.id for d in documents),
        n_tokens=torch.tensor(counts),
        n_targets=torch.tensor([min(n, len(d.ids) - 1) for d, n in zip(documents, lengths, strict=True)]),
        batches=tuple(_batch([documents[i] for i in row], [lengths[i] for i in row], row, pad or 0) for row in rows),
    )


def _batch(documents: Sequence[Document], lengths: Sequence[int], indices: Sequence[int], pad: int) -> Batch:
    ids = torch.full((len(documents), max(lengths)), pad)
    mask = torch.zeros_like(ids)
    bins: list[int] = []
    targets: list[int] = []
    follows: list[bool] = []
    for row, (document, n) in enumerate(zip(documents, lengths, strict=True)):
        ids[row, :n] = torch.tensor(document.ids[:n])
        mask[row, :n] = 1
        bins += [indices[row] * len(SEGMENTS) + SEGMENTS.index(s) for s in document.segments[:n]]
        # Where the document goes on after `n` tokens, the last one read has a next token too.
        following = document.ids[1 : n + 1]
        targets += [*following, *[0] * (n - len(following))]
        follows += [True] * len(following) + [False] * (n - len(following))
    return Batch(
        documents=tuple(indices),
        inputs={"input_ids": ids, "attention_mask": mask},
        mask=mask.bool(),
        bins=torch.tensor(bins),
        targets=torch.tensor(targets),
        has_target=torch.tensor(follows),
    )
