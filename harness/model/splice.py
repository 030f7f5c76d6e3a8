"""Splice: the KL when a dictionary's reconstruction replaces the adapter's scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.contract.codec import Codec
from harness.contract.context import RunContext
from harness.errors import ModelError
from harness.model.batching import length_batches, padded, ranked_mask
from harness.model.chat import Document
from harness.model.kl import kl_nats
from harness.model.subject import Subject
from harness.model.taps import SetTo, Site, component_sites, tap
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
    subject: Subject, documents: Sequence[Document], codec: Codec, run: RunContext, *, batch_tokens: int = 1024
) -> SpliceSums:
    """Two forward passes per batch: the adapter as it is, then side by side the splice and the adapter at 0 (the base).

    The codes are those of the adapter's own run; every component at every ranked token is replaced at once.

    Args:
        subject: an adapter on its base.
        documents: what to measure on (held-out documents, to mean anything).
        codec: of the subject's components, in their order.
        run: progress.
        batch_tokens: tokens of a batch; logits of three times as many are in memory.

    Raises:
        ModelError: the subject has no adapter.
    """
    if not subject.components:
        raise ModelError("a splice needs an adapter, and the subject has none")
    sites = component_sites(subject.components)
    splice, base = (np.zeros((len(documents), len(SEGMENTS))) for _ in range(2))
    run.progress.start(len(documents), "documents")
    for batch in length_batches([len(d.ids) for d in documents], batch_tokens):
        chosen = [documents[i] for i in batch]
        spliced_kl, base_kl = _batch(subject, chosen, sites, codec)
        for row, index in enumerate(batch):
            splice[index] = documents[index].by_segment(spliced_kl[row].tolist())
            base[index] = documents[index].by_segment(base_kl[row].tolist())
        run.progress.advance(len(batch))
    n_tokens = np.array([d.by_segment([1] * len(d.ids)) for d in documents], dtype=np.int64)
    return SpliceSums(splice, base, n_tokens)


@torch.no_grad()
def _batch(
    subject: Subject, documents: Sequence[Document], sites: Sequence[Site], codec: Codec
) -> tuple[Float[torch.Tensor, "batch token"], Float[torch.Tensor, "batch token"]]:
    inputs = padded(documents, subject.tokenizer, subject.device)
    with tap(subject.model, sites) as reading:
        full = subject.model(**inputs, use_cache=False).logits
        scalars = reading.values()
    B, T, C = scalars.shape  # batch, token, component
    rebuilt = codec.decode(codec.encode(scalars.reshape(B * T, C))).reshape(B, T, C).to(scalars.device)
    # Scalars of 0 add exactly 0 to every matrix: on these tokens the second half of the rows has no adapter.
    kept_at = ~ranked_mask(documents, T).to(scalars.device)[:, :, None]
    replacement = torch.cat([torch.where(kept_at, scalars, rebuilt), torch.where(kept_at, scalars, 0)])
    doubled = {name: torch.cat([value, value]) for name, value in inputs.items()}
    with tap(subject.model, sites, SetTo(replacement), read=False):
        spliced, base = subject.model(**doubled, use_cache=False).logits.chunk(2)
    return kl_nats(full, spliced).cpu(), kl_nats(full, base).cpu()
