"""Splice: the KL when a dictionary's reconstruction replaces the adapter's scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.contract.codec import Codec
from harness.contract.context import RunContext
from harness.model.batching import length_batches
from harness.model.chat import Document
from harness.model.own_runs import OwnRuns
from harness.model.subject import Subject
from harness.model.taps import SetTo, tap
from harness.records.segments import SEGMENTS, places

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class SpliceSums:
    """Sums over each document's tokens, by segment, in nats.

    Scalars are replaced on ranked tokens only: a dictionary knows no others. The template's stay the adapter's own.

    Attributes:
        splice_nats: [document, segment] KL(adapter ‖ adapter with its scalars replaced by decode(encode(scalars))).
        base_nats: [document, segment] KL(adapter ‖ adapter with its scalars 0 there): the scale.
        n_tokens: [document, segment].
    """

    splice_nats: Float[np.ndarray, "document segment"]
    base_nats: Float[np.ndarray, "document segment"]
    n_tokens: Int[np.ndarray, "document segment"]

    @property
    def kl_splice_nats(self) -> float:
        """Per token of the headline, each token weighing the same."""
        return float(self.splice_nats[:, places()].sum() / self.n_tokens[:, places()].sum())

    @property
    def kl_base_nats(self) -> float:
        """Per token of the headline, each token weighing the same."""
        return float(self.base_nats[:, places()].sum() / self.n_tokens[:, places()].sum())


def splice_kl(
    subject: Subject | OwnRuns,
    documents: Sequence[Document],
    codec: Codec,
    run: RunContext,
    *,
    batch_tokens: int = 1024,
) -> SpliceSums:
    """A forward pass per batch, and two more (the adapter as it is, and at 0: the base) where nobody made them before.

    The codes are those of the adapter's own run; every component at every ranked token is replaced at once.

    Args:
        subject: an adapter on its base, or its runs, which several dictionaries share.
        documents: what to measure on (held-out documents, to mean anything).
        codec: of the subject's components, in their order.
        run: progress.
        batch_tokens: tokens of a batch.

    Raises:
        ModelError: the subject has no adapter.
    """
    runs = subject if isinstance(subject, OwnRuns) else OwnRuns(subject)
    splice, base = (np.zeros((len(documents), len(SEGMENTS))) for _ in range(2))
    run.progress.start(len(documents), "documents")
    for batch in length_batches([len(d.ids) for d in documents], batch_tokens):
        chosen = [documents[i] for i in batch]
        spliced_kl, base_kl = _batch(runs, chosen, codec)
        for row, index in enumerate(batch):
            splice[index] = documents[index].by_segment(spliced_kl[row].tolist())
            base[index] = documents[index].by_segment(base_kl[row].tolist())
        run.progress.advance(len(batch))
    n_tokens = np.array([d.by_segment([1] * len(d.ids)) for d in documents], dtype=np.int64)
    return SpliceSums(splice, base, n_tokens)


@torch.no_grad()
def _batch(
    runs: OwnRuns, documents: Sequence[Document], codec: Codec
) -> tuple[Float[torch.Tensor, "batch token"], Float[torch.Tensor, "batch token"]]:
    run = runs.of(documents)
    B, T, C = run.scalars.shape  # batch, token, component
    rebuilt = codec.decode(codec.encode(run.scalars.reshape(B * T, C))).reshape(B, T, C).to(run.scalars.device)
    replacement = torch.where(run.kept_at, run.scalars, rebuilt)
    with tap(runs.subject.model, runs.sites, SetTo(replacement), read=False):
        spliced = runs.states.of(run.inputs)
    return runs.states.kl_nats(run.full, spliced).cpu(), run.base_kl_nats.cpu()
