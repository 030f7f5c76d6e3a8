"""The text that ablations are measured on: drawn traces as padded batches, each token labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from harness.errors import DataError
from harness.model.blocks import Inputs
from harness.model.chat import Document
from harness.records import Trace
from harness.records.segments import SEGMENTS, places

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from harness.model.subject import Subject

    from .config import KLConfig


@dataclass(frozen=True)
class Batch:
    """Documents padded on the right to one length. `bins`, `targets`, `has_target`: one entry per token that counts.

    Attributes:
        documents: index of each row's document.
        inputs: token ids and mask of the model: all that is read.
        mask: which tokens count.
        headline: which of these are the headline's.
        bins: document index * number of segments + segment, of each token.
        targets: the token that follows; 0 where `has_target` is false.
        has_target: whether one follows.
    """

    documents: tuple[int, ...]
    inputs: Inputs
    mask: Bool[torch.Tensor, "document token"]
    headline: Bool[torch.Tensor, "document token"]
    bins: Int[torch.Tensor, " counted"]
    targets: Int[torch.Tensor, " counted"]
    has_target: Bool[torch.Tensor, " counted"]

    def on(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(
            self.documents,
            {name: value.to(device) for name, value in self.inputs.items()},
            *(t.to(device) for t in (self.mask, self.headline, self.bins, self.targets, self.has_target)),
        )


@dataclass(frozen=True)
class Texts:
    """All documents.

    Attributes:
        ids: of the documents.
        n_tokens: tokens of each document that count, by segment: [document, segment].
        n_targets: of the headline's, how many are followed by another token: [document].
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


def window(n_prompt: int, n_response: int, max_tokens: int) -> range:
    """Which tokens of a document count: at most `max_tokens`, around the beginning of the response.

    A prompt counts whole where it fills no more than half of them, else its last part does: at least half are of the
    response, where it has so many. The response counts from its beginning. What precedes is read all the same.
    """
    before = min(n_prompt, max(max_tokens - n_response, max_tokens // 2))
    return range(n_prompt - before, n_prompt + min(n_response, max_tokens - before))


def texts_of(documents: Sequence[Document], config: KLConfig, pad: int | None) -> Texts:
    """Documents as batches on the CPU, each read to the end of its window."""
    windows = [window(d.response_token, len(d.ids) - d.response_token, config.max_tokens) for d in documents]
    order = sorted(range(len(documents)), key=lambda i: -windows[i].stop)
    rows = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    counted = [[d.segments[i] for i in w] for d, w in zip(documents, windows, strict=True)]
    last = [w.stop == len(d.ids) for d, w in zip(documents, windows, strict=True)]
    n_tokens = torch.tensor([[segments.count(name) for name in SEGMENTS] for segments in counted])
    return Texts(
        ids=tuple(d.id for d in documents),
        n_tokens=n_tokens,
        n_targets=n_tokens[:, places()].sum(1) - torch.tensor(last).long(),
        batches=tuple(_batch([documents[i] for i in row], [windows[i] for i in row], row, pad or 0) for row in rows),
    )


def _batch(documents: Sequence[Document], windows: Sequence[range], indices: Sequence[int], pad: int) -> Batch:
    shape = len(documents), max(w.stop for w in windows)
    ids, read = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    mask, headline = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    bins: list[int] = []
    targets: list[int] = []
    follows: list[bool] = []
    for row, (document, w) in enumerate(zip(documents, windows, strict=True)):
        ids[row, : w.stop] = torch.tensor(document.ids[: w.stop])
        read[row, : w.stop] = 1
        mask[row, w.start : w.stop] = True
        segments = [SEGMENTS.index(s) for s in document.segments[w.start : w.stop]]
        headline[row, w.start : w.stop] = torch.tensor([s in places() for s in segments])
        bins += [indices[row] * len(SEGMENTS) + s for s in segments]
        # Where the document goes on after the window, the last token has a next one too.
        following = document.ids[w.start + 1 : w.stop + 1]
        targets += [*following, *[0] * (len(w) - len(following))]
        follows += [True] * len(following) + [False] * (len(w) - len(following))
    return Batch(
        documents=tuple(indices),
        inputs={"input_ids": ids, "attention_mask": read},
        mask=mask,
        headline=headline,
        bins=torch.tensor(bins),
        targets=torch.tensor(targets),
        has_target=torch.tensor(follows),
    )
