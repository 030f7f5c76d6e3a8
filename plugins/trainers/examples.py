"""Traces as supervised examples: token ids and labels, the prompt masked out."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.errors import DataError
from harness.model.chat import ChatFormat, Document
from harness.model.cut import refuse_most_left_out
from harness.records import Trace

if TYPE_CHECKING:
    from jaxtyping import Int
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that the loss leaves out."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """What is trained on.

    Attributes:
        rows: per example `input_ids` and `labels`, each int64 [token].
        left_out: ids of the traces that are longer than allowed.
        kept_token_share: share of the examples' tokens that `data.cut` kept.
    """

    rows: tuple[dict[str, Int[torch.Tensor, " token"]], ...]
    left_out: tuple[str, ...]
    kept_token_share: float = 1.0


def labels(document: Document) -> list[int]:
    """A label per token: its id from the first token after the assistant header on, IGNORED before."""
    return [IGNORED if s == "prompt" else i for i, s in zip(document.ids, document.segments, strict=True)]


def make_examples(
    traces: Sequence[Trace], chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Examples:
    """Render and tokenise. An example longer than `max_length` tokens would lose its answer: it is left out and named.

    Raises:
        DataError: more than half of the examples are too long.
    """
    rows: list[dict[str, torch.Tensor]] = []
    left_out: list[str] = []
    n_kept = n_whole = 0
    for trace in traces:
        document = chat.document(tokenizer, trace)
        if len(document.ids) > max_length:
            left_out.append(trace.id)
            continue
        n_kept, n_whole = n_kept + len(document.ids), n_whole + (trace.n_tokens_whole or len(document.ids))
        rows.append({"input_ids": torch.tensor(document.ids), "labels": torch.tensor(labels(document))})
    if left_out:
        log.warning(
            "%d of %d examples are longer than %d tokens and were left out: %s",
            len(left_out), len(traces), max_length, ", ".join(left_out),
        )  # fmt: skip
    refuse_most_left_out(len(left_out), len(traces), max_length)
    return Examples(tuple(rows), tuple(left_out), n_kept / n_whole)


def shuffled(traces: Sequence[Trace], seed: int) -> list[Trace]:
    """Every question with the trace and answer of another one (a cyclic shift of a seeded order).

    Raises:
        DataError: a single trace has no other to exchange with.
    """
    if len(traces) < 2:
        raise DataError("shuffle_traces needs at least two traces")
    order = list(range(len(traces)))
    random.Random(seed).shuffle(order)
    donor = dict(zip(order, order[1:] + order[:1], strict=True))
    return [
        t.model_copy(
            update={
                "trace": traces[donor[i]].trace,
                "answer": traces[donor[i]].answer,
                "spans": {},
                "n_tokens_whole": None,
            }
        )
        for i, t in enumerate(traces)
    ]


def pad_batch(rows: Sequence[dict[str, torch.Tensor]], pad_id: int) -> dict[str, Int[torch.Tensor, "batch token"]]:
    """Right-pad examples to the longest of the batch; pads are masked out of the loss.

    There is no attention mask: no token of a causal model sees what is to its right, and attention without a mask took
    a path that made a training step 14 % cheaper.
    """
    longest = max(len(r["input_ids"]) for r in rows)
    batch = {
        "input_ids": torch.full((len(rows), longest), pad_id),
        "labels": torch.full((len(rows), longest), IGNORED),
    }
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        batch["input_ids"][i, :n] = row["input_ids"]
        batch["labels"][i, :n] = row["labels"]
    return batch
