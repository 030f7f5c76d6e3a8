"""The benchmark `trace_loss`: cross-entropy of held-out traces' responses, in nats per token; lower is better.

An item is a document and its score the mean over its response's tokens, so that models are paired by document. Small
models that solve no problem differ in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.contract.settings import TRACE_LOSS
from harness.errors import DataError
from harness.records import EvaluationResult, Sample, Trace

if TYPE_CHECKING:
    from harness.benchmarks.answerer import Answerer
    from harness.contract.progress import Progress

NO_LOSS = f"{TRACE_LOSS} reads the model's hidden states, which vLLM does not show; use --set evaluate.backend=hf"


def evaluate_loss(
    answerer: Answerer, traces: Sequence[Trace], *, variant: str, limit: int | None, progress: Progress
) -> EvaluationResult:
    """The losses of a model variant; its score is their mean over documents.

    Raises:
        ModelError: the adapter has no effect, or logits cannot be read.
        UsageError: the backend is vLLM.
        DataError: there are no traces, or none fits into the model's context.
    """
    if not traces:
        raise DataError(f"{TRACE_LOSS} needs held-out traces, and there are none")
    traces = traces[:limit]
    n_bound = answerer.check()
    samples = tuple(
        Sample(
            doc_id=loss.index,
            prompt=loss.prompt,
            prompt_hash=hashlib.sha256(loss.prompt.encode()).hexdigest(),
            response="",
            extracted=None,
            target=f"trace {traces[loss.index].id}",
            score=loss.nats,
            n_tokens=loss.n_tokens,
        )
        for loss in answerer.losses(traces, progress)
    )
    return EvaluationResult(
        item=f"{variant}/{TRACE_LOSS}",
        variant=variant,
        benchmark=TRACE_LOSS,
        n_items=len(samples),
        unit="nats",
        metric="cross-entropy",
        score=sum(s.score for s in samples) / len(samples),
        samples=samples,
        chat_hash=answerer.chat_hash,
        engine=answerer.engine,
        n_bound=n_bound,
    )
