"""What is read of two models on the same text: last hidden states, KL per token, residual streams at drawn tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.activations.store import StoredDocument, token_texts
from harness.errors import ModelError
from harness.model.batching import adapter_switch
from harness.model.blocks import Blocks
from harness.model.chat import Document
from harness.model.kl import Reference, compare, kl_nats
from harness.model.readout import Readout
from harness.records import Trace
from harness.records.segments import SEGMENTS, places

from ..documents import choose, window
from . import DifferencesConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from harness.model.subject import Subject

_TOKENS_SAID = 3
"""Most likely next tokens that are stored of each model."""


@dataclass(frozen=True)
class Text:
    """A document, and which of its tokens are measured.

    Attributes:
        document: all of it.
        window: the tokens whose KL is measured.
        first: the first tokens of what was written as question.
        drawn: tokens of the response whose residual stream is compared.
    """

    document: Document
    window: range
    first: tuple[int, ...]
    drawn: tuple[int, ...]

    @property
    def segments(self) -> np.ndarray:
        """Index into SEGMENTS of each token of the window."""
        return np.array([SEGMENTS.index(self.document.segments[i]) for i in self.window])

    @property
    def response(self) -> Bool[np.ndarray, " token"]:
        """Which tokens of the window are of the response."""
        return np.isin(self.segments, places())

    @property
    def stored(self) -> StoredDocument:
        """The document as finders of kinds of tokens and of texts read it; it has no activations."""
        d = self.document
        return StoredDocument(
            d.id, d.text, np.array(d.ids), np.array(d.offsets), np.array([SEGMENTS.index(s) for s in d.segments]),
            np.array(d.ranked), np.zeros((len(d.ids), 0), np.float32),
        )  # fmt: skip

    def tokens(self, start: int, stop: int) -> str:
        """The text of the tokens start..stop."""
        return "".join(token_texts(self.stored, max(start, 0), min(stop, len(self.document.ids))))


def read_texts(
    subject: Subject, traces: Sequence[Trace], config: DifferencesConfig, generator: torch.Generator
) -> list[Text]:
    """Draw documents, and tokens of their responses.

    Raises:
        DataError: there are no traces.
    """
    chosen = choose(traces, config.n_documents, generator)
    texts = []
    for document in (subject.chat.document(subject.tokenizer, t) for t in chosen):
        measured = window(document.response_token, len(document.ids) - document.response_token, config.max_tokens)
        response = [i for i in measured if i >= document.response_token]
        n_drawn = -(-config.residual_tokens // len(chosen))
        drawn = sorted(response[i] for i in torch.randperm(len(response), generator=generator)[:n_drawn].tolist())
        question = [i for i in range(min(document.response_token, measured.stop)) if document.ranked[i]]
        texts.append(Text(document, measured, tuple(question[: config.first_tokens]), tuple(drawn)))
    return texts


@dataclass(frozen=True)
class States:
    """A model on a text.

    Attributes:
        last: hidden states after the final norm, of the window's tokens, on the CPU.
        streams: what leaves each block at the text's `first` and `drawn` tokens, float32, on the CPU.
    """

    last: Float[torch.Tensor, "token hidden"]
    streams: Float[torch.Tensor, "block position hidden"]


@torch.no_grad()
def read_states(subject: Subject, blocks: Blocks, text: Text, *, adapter: bool = True) -> States:
    """Run the model over the text, to the end of the window.

    Raises:
        ModelError: the model's blocks were not found, or its hidden states are not finite.
    """
    ids = torch.tensor([text.document.ids[: text.window.stop]], device=subject.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with adapter_switch(subject.model, on=adapter):
        last, streams = blocks.streams(inputs, (*text.first, *text.drawn))
    last = last[text.window.start :]
    if not bool(torch.isfinite(last).all()):
        raise ModelError(
            f"hidden states are not finite in document {text.document.id!r}: a weight is not a number, or the dtype "
            "overflows (--set model.dtype=float32)"
        )
    return States(last.cpu(), streams)


@dataclass(frozen=True)
class Said:
    """A model's most likely next tokens and their probabilities."""

    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Speaker:
    """What turns a model's last hidden states into next-token distributions.

    Attributes:
        readout: its output matrix.
        subject: the model; its device is where the distributions are made.
    """

    readout: Readout
    subject: Subject

    @torch.no_grad()
    def said(self, last: Float[torch.Tensor, " hidden"]) -> Said:
        """The most likely next tokens."""
        logits = self.readout.precise_logits(last.to(self.readout.weight.device)[None])[0]
        p, ids = torch.softmax(logits, -1).topk(_TOKENS_SAID)
        return Said(tuple(str(self.subject.tokenizer.decode([i])) for i in ids.tolist()), tuple(p.tolist()))


@torch.no_grad()
def kl_per_token(
    first: Readout, p: Float[torch.Tensor, "token hidden"], second: Readout, q: Float[torch.Tensor, "token hidden"]
) -> Float[np.ndarray, " token"]:
    """KL(first ‖ second) in nats from last hidden states, a chunk of tokens at a time, float64.

    Where both share the output matrix the hidden states' difference goes through it, so that small KLs are not
    differences of large logits.
    """
    device, parts = first.weight.device, []
    for chunk in first.chunks(len(p)):
        here, there = p[chunk].to(device), q[chunk].to(device)
        if first is second:
            reference = Reference.of(first.precise_logits(here))
            kl = compare(reference, first.difference(here, there)).kl_nats
        else:
            kl = kl_nats(first.precise_logits(here), second.precise_logits(there))
        parts.append(kl.double().cpu())
    return torch.cat(parts).clamp(min=0).numpy()


@contextmanager
def only_output_matrix_of(subject: Subject) -> Iterator[None]:
    """Move the model to the CPU inside the block, all but its output matrix: another model needs the memory."""
    device = subject.device
    subject.place("cpu")
    subject.model.get_output_embeddings().to(device)
    try:
        yield
    finally:
        subject.place(device)
