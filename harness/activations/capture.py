"""Capture: documents through the model's backbone once, what the tap reads into shards, of one set or of several.

The head is never run (it makes a third of a small model's time and all of its memory). Batches are made of documents of
similar length, within one shard: the batches, and so the bytes, are the same whether a capture was interrupted or not.
"""

from __future__ import annotations

import itertools
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from harness.activations.parts import Part, split_document, trace_id
from harness.activations.writer import ActivationWriter
from harness.contract.context import RunContext
from harness.contract.progress import Progress
from harness.errors import DataError, ModelError
from harness.model.batching import adapter_switch, context_length, find_backbone, length_batches, padded
from harness.model.chat import Document
from harness.model.in_place import InPlace
from harness.model.subject import Subject
from harness.model.taps import Site, tap
from harness.records import ActivationSet, Trace

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capture:
    """What one activation set takes from a pass.

    Attributes:
        sites: what to read; columns in the writer's order.
        writer: where to; its `numerics` say how the model is run.
        adapter_on: False reads the unadapted base (the adapter is disabled for the while).
        batch_tokens: tokens of a batch, padding included; a longer document is a batch of its own.
    """

    sites: tuple[Site, ...]
    writer: ActivationWriter
    adapter_on: bool
    batch_tokens: int = 4096

    @property
    def n_columns(self) -> int:
        """Columns of all sites."""
        return sum(site.width for site in self.sites)

    @property
    def model_pass(self) -> tuple[object, ...]:
        """What captures have in common that can be made in one pass: the same batches through the same model."""
        header = self.writer.header
        return self.adapter_on, header.numerics, self.batch_tokens, header.shard_tokens


class SharesPass(Protocol):
    """A probe whose config has a `shared_pass`: the harness may capture its set together with those of others."""

    def capture(self, subject: Subject, run: RunContext) -> Capture:
        """What `read` would capture, and where to; `read` then finds all of it there."""
        ...


def capture(
    subject: Subject,
    traces: Sequence[Trace],
    sites: Sequence[Site],
    writer: ActivationWriter,
    run: RunContext,
    *,
    adapter_on: bool,
    batch_tokens: int = 4096,
) -> ActivationSet:
    """Run the traces through the model once and write what the sites read: `capture_together` of a single set.

    Args:
        subject: model, tokenizer and chat format.
        traces: the documents, in an order that every attempt shares.
        sites: see `Capture`.
        writer: see `Capture`.
        run: progress, and the executor whose workers read a shard's documents each.
        adapter_on: see `Capture`.
        batch_tokens: see `Capture`.

    Raises:
        DataError: no traces, or other traces than those of the interrupted attempt.
        HarnessError: an activation is NaN or infinite.
        ModelError: the model never runs through a site.
    """
    capture_together(subject, traces, [Capture(tuple(sites), writer, adapter_on, batch_tokens)], run)
    return writer.finish()


def capture_together(subject: Subject, traces: Sequence[Trace], captures: Sequence[Capture], run: RunContext) -> None:
    """Run the traces through the model once and write the shards of all captures, each in its writer's unit.

    Documents longer than the model's context are split at it, logged, and counted in the manifest. Documents that an
    interrupted attempt left in whole shards of every set are not read again. In memory is one shard of each set.

    Args:
        subject: model, tokenizer and chat format.
        traces: the documents, in an order that every attempt shares.
        captures: of one `model_pass`.
        run: progress, and the executor whose workers read a shard's documents each.

    Raises:
        DataError: no traces, or other traces than those of the interrupted attempt.
        HarnessError: an activation is NaN or infinite.
        ModelError: the model never runs through a site.
    """
    first = captures[0]
    assert all(c.model_pass == first.model_pass for c in captures), "captures of several passes"
    sources = " and ".join(c.writer.header.source for c in captures)
    if not traces:
        raise DataError(f"{sources}: there is no trace to read")
    for writer in (c.writer for c in captures):
        read = list(dict.fromkeys(map(trace_id, writer.documents_done)))
        if [t.id for t in traces[: len(read)]] != read:
            raise DataError(
                f"{writer.path} holds shards of other documents than these traces; delete it to capture them again"
            )
    done = min((c.writer.documents_done for c in captures), key=len)
    run.progress.start(len(traces), "documents")
    run.progress.advance(len(set(map(trace_id, done))))
    windows = _windows(_left(subject, traces, done), first.writer.header.shard_tokens)
    begun = next(windows, None)
    if begun is None:  # all is there: no worker has to load a model
        return
    n_parts: Counter[str] = Counter()
    sites = tuple(site for c in captures for site in c.sites)
    in_place = first.writer.header.numerics == "in-place"
    reader = Reader(subject, sites, first.adapter_on, in_place, first.batch_tokens)
    with run.executor.open(reader) as workers:
        for window, values in workers.map(Reader.read, itertools.chain([begun], windows), run.progress):
            _append(captures, window, values)
            n_parts |= Counter({trace_id(p.document.id): p.n_parts for p in window if p.n_parts > 1})
    for c in captures:
        c.writer.flush()
    if n_parts:
        logger.warning(
            "%s: %d of %d documents are longer than the model's context (%s tokens) and were read in %d parts, each a "
            "context of its own",
            sources, len(n_parts), len(traces), context_length(subject.model), n_parts.total(),
        )  # fmt: skip


def _append(
    captures: Sequence[Capture], window: Sequence[Part], values: Sequence[Float[np.ndarray, "token column"]]
) -> None:
    """A shard's documents, to each set that does not have that shard yet."""
    start = 0
    for c in captures:
        columns = slice(start, start + c.n_columns)
        start += c.n_columns
        if window[0].document.id in c.writer.documents_done:
            continue
        scale = np.array(c.writer.header.scale, dtype=np.float32) if c.writer.header.scale else None
        for part, value in zip(window, values, strict=True):
            own = value[:, columns]
            first_part = part.n_parts > 1 and not part.index
            c.writer.append(part.document, own if scale is None else own * scale, split=first_part)


def prepare(subject: Subject, trace: Trace) -> tuple[Part, ...]:
    """A trace as documents that fit the model and whose text is what their ids decode to."""
    document = subject.chat.document(subject.tokenizer, trace, ranked=subject.ranked)
    document = as_decoded(document, subject.tokenizer)
    return split_document(document, context_length(subject.model))


def as_decoded(document: Document, tokenizer: PreTrainedTokenizerBase) -> Document:
    """The document with its text in the tokenizer's normal form (NFC), so that windows of it equal decoded windows.

    Segments keep the borders they were found at. A text whose normal form has other ids is left as it is.
    """
    text = unicodedata.normalize("NFC", document.text)
    if text == document.text:
        return document
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if tuple(encoded["input_ids"]) != document.ids:
        return document
    return replace(document, text=text, offsets=tuple((int(a), int(b)) for a, b in encoded["offset_mapping"]))


def _left(subject: Subject, traces: Sequence[Trace], done: Sequence[str]) -> Iterator[Part]:
    """The parts that are not in whole shards. Traces that are there whole are not even tokenized."""
    n_done = Counter(map(trace_id, done))
    last = trace_id(done[-1]) if done else None
    for trace in traces:
        if trace.id == last or trace.id not in n_done:
            yield from prepare(subject, trace)[n_done[trace.id] :]


def _windows(parts: Iterable[Part], shard_tokens: int) -> Iterator[list[Part]]:
    """The documents of one shard at a time: the writer closes a shard by the same rule."""
    window: list[Part] = []
    n_tokens = 0
    for part in parts:
        window.append(part)
        n_tokens += len(part.document.ids)
        if n_tokens >= shard_tokens:
            yield window
            window, n_tokens = [], 0
    if window:
        yield window


@dataclass(frozen=True)
class Reader:
    """What reads the documents of a shard: a worker's tool.

    Attributes:
        subject: model and tokenizer.
        sites: what to read.
        adapter_on: False reads the unadapted base.
        in_place: run the adapter in place, not by PEFT's modules.
        batch_tokens: tokens of a batch, padding included.
    """

    subject: Subject
    sites: tuple[Site, ...]
    adapter_on: bool
    in_place: bool
    batch_tokens: int

    @torch.no_grad()
    def read(self, parts: Sequence[Part], progress: Progress) -> list[Float[np.ndarray, "token column"]]:
        """Activations of each document, in the documents' order.

        Raises:
            ModelError: a batch does not fit the GPU, or the model never runs through a site.
        """
        subject, documents = self.subject, [part.document for part in parts]
        backbone = find_backbone(subject.model)
        values: list[np.ndarray | None] = [None] * len(documents)
        rapid = InPlace(subject.model, subject.components) if self.in_place else nullcontext()
        with adapter_switch(subject.model, on=self.adapter_on), rapid, tap(subject.model, self.sites) as reading:
            for batch in length_batches([len(d.ids) for d in documents], self.batch_tokens):
                inputs = padded([documents[i] for i in batch], subject.tokenizer, subject.device)
                try:
                    backbone(**inputs, use_cache=False)
                except torch.OutOfMemoryError as error:
                    raise ModelError(
                        f"out of memory on {subject.device} with {inputs['input_ids'].numel()} tokens in a batch; "
                        "lower batch_tokens"
                    ) from error
                read = reading.values().cpu().numpy()
                for row, index in enumerate(batch):
                    values[index] = read[row, : len(documents[index].ids)]
                progress.advance(sum(parts[i].index == 0 for i in batch))
        return [v for v in values if v is not None]
