"""Capture: documents through the model's backbone once, what the tap reads into shards.

The head is never run (it makes a third of a small model's time and all of its memory). Batches are made of documents of
similar length, within one shard: the batches, and so the bytes, are the same whether a capture was interrupted or not.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.activations.writer import ActivationWriter
from harness.errors import DataError, ModelError
from harness.model.batching import adapter_switch, context_length, find_backbone, length_batches, padded
from harness.model.chat import Document
from harness.model.subject import Subject
from harness.model.taps import Site, tap
from harness.records import ActivationSet, Trace
from harness.stages import RunContext

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A document as the model can take it."""

    document: Document
    truncated: bool


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
    """Run the traces through the model once and write what the sites read.

    Documents longer than the model's context are cut at it, logged, and counted in the manifest. Documents that an
    interrupted attempt left in whole shards are not read again.

    Args:
        subject: model, tokenizer and chat format.
        traces: the documents, in an order that every attempt shares.
        sites: what to read; columns in the writer's order.
        writer: where to.
        run: device and progress.
        adapter_on: False reads the unadapted base (the adapter is disabled for the while).
        batch_tokens: tokens of a batch, padding included; a longer document is a batch of its own.

    Raises:
        DataError: no traces, or other traces than those of the interrupted attempt.
        HarnessError: an activation is NaN or infinite.
        ModelError: the model never runs through a site.
    """
    if not traces:
        raise DataError(f"{writer.header.source}: there is no trace to read")
    _refuse_other_documents(writer, traces)
    run.progress.start(len(traces), "documents")
    run.progress.advance(writer.n_documents_done)
    n_truncated = 0
    backbone = find_backbone(subject.model)
    with torch.no_grad(), adapter_switch(subject.model, on=adapter_on):
        for window in _windows(subject, traces[writer.n_documents_done :], writer.header.shard_tokens):
            values = _read(subject, backbone, [p.document for p in window], sites, batch_tokens, run)
            for prepared, value in zip(window, values, strict=True):
                writer.append(prepared.document, value, split=prepared.truncated)
                n_truncated += prepared.truncated
    if n_truncated:
        logger.warning(
            "%s: %d of %d documents are longer than the model's context and were cut",
            writer.header.source, n_truncated, len(traces),
        )  # fmt: skip
    return writer.finish()


def prepare(subject: Subject, trace: Trace) -> Prepared:
    """A trace as a document that fits the model and whose text is what its ids decode to."""
    document = as_decoded(subject.chat.document(subject.tokenizer, trace), subject.tokenizer)
    limit = context_length(subject.model)
    if limit is None or len(document.ids) <= limit:
        return Prepared(document, truncated=False)
    while limit > 1 and document.offsets[limit][0] < document.offsets[limit - 1][1]:
        limit -= 1  # keep characters whole
    cut = replace(
        document,
        text=document.text[: document.offsets[limit - 1][1]],
        ids=document.ids[:limit],
        offsets=document.offsets[:limit],
        segments=document.segments[:limit],
        special=document.special[:limit],
    )
    return Prepared(cut, truncated=True)


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


def _refuse_other_documents(writer: ActivationWriter, traces: Sequence[Trace]) -> None:
    done = writer.documents_done
    if tuple(t.id for t in traces[: len(done)]) != done:
        raise DataError(
            f"{writer.path} holds shards of other documents than these traces; delete it to capture them again"
        )


def _windows(subject: Subject, traces: Sequence[Trace], shard_tokens: int) -> Iterator[list[Prepared]]:
    """The documents of one shard at a time: the writer closes a shard by the same rule."""
    window: list[Prepared] = []
    n_tokens = 0
    for trace in traces:
        window.append(prepare(subject, trace))
        n_tokens += len(window[-1].document.ids)
        if n_tokens >= shard_tokens:
            yield window
            window, n_tokens = [], 0
    if window:
        yield window


def _read(
    subject: Subject,
    backbone: Any,
    documents: Sequence[Document],
    sites: Sequence[Site],
    batch_tokens: int,
    run: RunContext,
) -> list[Float[np.ndarray, "token column"]]:
    """Activations of each document, in the documents' order."""
    values: list[np.ndarray | None] = [None] * len(documents)
    with tap(subject.model, sites) as reading:
        for batch in length_batches([len(d.ids) for d in documents], batch_tokens):
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
            run.progress.advance(len(batch))
    return [v for v in values if v is not None]
