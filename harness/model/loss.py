"""Cross-entropy of traces' responses: how well a model predicts what trainers would teach it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from harness.contract.progress import Progress, SilentProgress
from harness.errors import DataError, ModelError
from harness.model.batching import context_length, find_backbone
from harness.model.components import Component
from harness.model.readout import Readout
from harness.model.subject import Subject
from harness.model.taps import ablate, component_sites, tap
from harness.records import Trace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """How well a model predicts one trace's response.

    Attributes:
        index: of the trace among those that were given.
        prompt: the text before the response.
        nats: cross-entropy, mean over the response's tokens, each predicted from all before it.
        n_tokens: the response's tokens, headers and end included, as in training.
    """

    index: int
    prompt: str
    nats: float
    n_tokens: int


@torch.no_grad()
def response_losses(
    subject: Subject, traces: Sequence[Trace], off: Sequence[Component] = (), *, progress: Progress | None = None
) -> list[Loss]:
    """Cross-entropy of each trace's response, one document at a time, logits of a chunk of positions at a time.

    Traces that are longer than the model's context are left out, for every variant alike, and named in the log.

    Args:
        subject: base, adapter or full fine-tune.
        traces: no trainer may have read them.
        off: components of the adapter that are switched off.
        progress: told of each trace.

    Raises:
        ModelError: the model's logits cannot be read from its hidden states (see `Readout`), or a loss is not finite.
        DataError: there are no traces, or none fits into the model's context.
    """
    progress = progress or SilentProgress()
    progress.start(len(traces), "document")
    model, longest = subject.model, context_length(subject.model) or math.inf
    backbone, readout = find_backbone(model), Readout(model)
    losses: list[Loss] = []
    left_out: list[str] = []
    for index, trace in enumerate(traces):
        progress.advance()
        document = subject.chat.document(subject.tokenizer, trace)
        if len(document.ids) > longest:
            left_out.append(trace.id)
            continue
        ids, first = torch.tensor([document.ids], device=subject.device), document.response_token
        if not losses:
            readout.check(model, {"input_ids": ids[:, :8]})
        off_sites = tap(model, component_sites(subject.components), ablate(subject.components, off), read=False)
        with off_sites if off else nullcontext():
            hidden = backbone(input_ids=ids, use_cache=False)[0][0, first - 1 : -1]
        nats = _cross_entropy_nats(readout, hidden, ids[0, first:]) / len(hidden)
        if not math.isfinite(nats):
            raise ModelError(f"the loss of trace {trace.id!r} is not finite (--set model.dtype=float32 has more room)")
        losses.append(Loss(index, document.text[: document.offsets[first][0]], nats, len(hidden)))
    if left_out:
        _log.warning("%d of %d traces exceed the model's context of %d tokens and are left out of their loss: %s",
                     len(left_out), len(traces), longest, ", ".join(left_out))  # fmt: skip
    if not losses:
        raise DataError(f"none of {len(traces)} held-out traces fits into the model's context; its loss needs one")
    return losses


def _cross_entropy_nats(readout: Readout, hidden: torch.Tensor, target: torch.Tensor) -> float:
    """Sum over positions; hidden states [token, hidden], the tokens that follow them [token]."""
    total = 0.0
    for chunk in readout.chunks(len(hidden)):
        total += float(F.cross_entropy(readout.precise_logits(hidden[chunk]), target[chunk], reduction="sum").double())
    return total
