"""Effects: what each latent does to the model, measured by taking its contribution out of the adapter's scalars.

From the scalars of every component z_j d_j is subtracted, where z_j is the latent's code in the adapter's own run and
d_j its decoder row. What the dictionary does not explain stays in the scalars, and scalars of later layers respond to
the change. So the effect is that of the latent, not of the reconstruction's error; for the `identity` dictionary it is
the ablation of a component. Documents on which a latent is never active cannot change and are not run.
"""

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
from harness.model.taps import tap
from harness.records.segments import SEGMENTS

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class EffectSums:
    """Sums over each document's tokens, by segment.

    Attributes:
        nats: [latent, document, segment] KL(adapter ‖ adapter without the latent's contribution).
        n_active: [latent, document, segment] tokens on which the latent is active.
        n_tokens: [document, segment].
    """

    nats: Float[np.ndarray, "latent document segment"]
    n_active: Int[np.ndarray, "latent document segment"]
    n_tokens: Int[np.ndarray, "document segment"]


@dataclass(frozen=True)
class Without:
    """Edit: take a contribution [batch, token, component] out of the scalars."""

    contribution: torch.Tensor

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Edit one site's values."""
        return values - self.contribution[..., columns].to(values)


@torch.no_grad()
def latent_effects(
    subject: Subject | OwnRuns,
    documents: Sequence[Document],
    codec: Codec,
    latents: Sequence[int],
    rows: Float[np.ndarray, "latent d_in"],
    run: RunContext,
    *,
    batch_tokens: int = 1024,
) -> EffectSums:
    """One forward pass per latent and document on which it is active, side by side in batches.

    Args:
        subject: an adapter on its base, or its runs, which several dictionaries share.
        documents: what to measure on.
        codec: of the subject's components, in their order.
        latents: which ones.
        rows: decoder rows of all latents (`decoder_rows`).
        run: progress.
        batch_tokens: tokens of a batch.

    Raises:
        ModelError: the subject has no adapter.
    """
    runs = subject if isinstance(subject, OwnRuns) else OwnRuns(subject)
    model, states = runs.subject.model, runs.states
    directions = torch.from_numpy(rows[list(latents)]).float().to(runs.subject.device)
    nats = np.zeros((len(latents), len(documents), len(SEGMENTS)))
    n_active = np.zeros(nats.shape, dtype=np.int64)
    run.progress.start(len(documents), "documents")
    for batch in length_batches([len(d.ids) for d in documents], batch_tokens):
        own = runs.of([documents[i] for i in batch])
        inputs, scalars = own.inputs, own.scalars
        B, T, C = scalars.shape  # batch, token, component
        codes = codec.encode(scalars.reshape(B * T, C)).to(scalars.device)[:, list(latents)].reshape(B, T, -1)
        codes = codes * ~own.kept_at
        for row, index in enumerate(batch):
            n_active[:, index] = [documents[index].by_segment(active) for active in (codes[row] != 0).T.int().tolist()]
        pairs = [(j, b) for j in range(len(latents)) for b in range(B) if n_active[j, batch[b]].any()]
        step = max(1, batch_tokens // T)
        for start in range(0, len(pairs), step):
            j, b = (
                torch.tensor(side, device=scalars.device) for side in zip(*pairs[start : start + step], strict=True)
            )
            contribution = codes[b, :, j][:, :, None] * directions[j][:, None, :]
            with tap(model, runs.sites, Without(contribution), read=False):
                ablated = states.of({name: value[b] for name, value in inputs.items()})
            kl = states.kl_nats(own.full[b], ablated) * inputs["attention_mask"][b]
            for (latent, row), of_tokens in zip(pairs[start : start + step], kl.tolist(), strict=True):
                nats[latent, batch[row]] = documents[batch[row]].by_segment(of_tokens)
        run.progress.advance(len(batch))
    n_tokens = np.array([d.by_segment([1] * len(d.ids)) for d in documents], dtype=np.int64)
    return EffectSums(nats, n_active, n_tokens)
