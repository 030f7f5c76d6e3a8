"""The adapter's own run over documents, and the base's: made once for all dictionaries that are held against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import ModelError
from harness.model.batching import find_backbone, padded, ranked_mask
from harness.model.chat import Document
from harness.model.kl import Reference, compare, kl_nats
from harness.model.readout import Readout
from harness.model.subject import Subject
from harness.model.taps import SetTo, component_sites, tap

if TYPE_CHECKING:
    from jaxtyping import Float

MOST_BYTES = 2**30
"""Of the runs that are kept; of more documents than these hold, runs are made again."""


@dataclass(frozen=True)
class OwnRun:
    """What a batch of documents gives without any dictionary.

    Attributes:
        inputs: `input_ids` and `attention_mask`, padded.
        full: [batch, token, state] of the adapter as it is (`States`).
        base_kl_nats: [batch, token] KL(adapter ‖ adapter with its scalars 0 at ranked tokens).
        scalars: [batch, token, component] of the adapter as it is, float32.
        kept_at: bool [batch, token, 1] tokens whose scalars nobody replaces.
    """

    inputs: dict[str, torch.Tensor]
    full: torch.Tensor
    base_kl_nats: Float[torch.Tensor, "batch token"]
    scalars: Float[torch.Tensor, "batch token component"]
    kept_at: torch.Tensor

    @property
    def n_bytes(self) -> int:
        """What it takes in memory."""
        return sum(t.numel() * t.element_size() for t in (self.full, self.scalars))


class States:
    """What next-token distributions are read from: final hidden states, [token, hidden], or, of a model that changes
    its logits after the output matrix, the logits themselves."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._readout: Readout | None = None
        try:
            readout = Readout(model)
            device = next(model.parameters()).device
            readout.check(model, {"input_ids": torch.arange(8, device=device)[None] % len(readout.weight)})
            self._readout = readout
        except ModelError:
            pass  # read by its logits

    @torch.no_grad()
    def of(self, inputs: dict[str, torch.Tensor]) -> Float[torch.Tensor, "batch token state"]:
        """Of a forward pass, with whatever taps are open."""
        if self._readout is None:
            logits: torch.Tensor = self._model(**inputs, use_cache=False).logits
            return logits
        hidden: torch.Tensor = find_backbone(self._model)(**inputs, use_cache=False)[0]
        return hidden

    @torch.no_grad()
    def kl_nats(
        self, p: Float[torch.Tensor, "batch token state"], q: Float[torch.Tensor, "batch token state"]
    ) -> Float[torch.Tensor, "batch token"]:
        """KL(p ‖ q) of each token's next-token distributions; a chunk of positions has its logits in memory."""
        readout = self._readout
        if readout is None:
            return kl_nats(p, q)
        before, after = p.flatten(0, 1), q.flatten(0, 1)
        parts = [
            compare(Reference.of(readout.precise_logits(before[at])), readout.difference(before[at], after[at])).kl_nats
            for at in readout.chunks(len(before))
        ]
        return torch.cat(parts).reshape(p.shape[:2])


class OwnRuns:
    """Runs of one subject, kept for the next dictionary.

    Attributes:
        subject: an adapter on its base.
        sites: of its components, in their order.
        states: reads its distributions.
    """

    def __init__(self, subject: Subject) -> None:
        """Nothing runs yet but a few tokens.

        Raises:
            ModelError: the subject has no adapter.
        """
        if not subject.components:
            raise ModelError("a dictionary acts through an adapter's scalars, and the subject has no adapter")
        self.subject, self.sites = subject, component_sites(subject.components)
        self.states = States(subject.model)
        self._runs: dict[tuple[object, ...], OwnRun] = {}

    @torch.no_grad()
    def of(self, documents: Sequence[Document]) -> OwnRun:
        """The run over a batch; two forward passes where it is not kept."""
        key = tuple((d.ids, d.ranked) for d in documents)
        if key in self._runs:
            return self._runs[key]
        inputs = padded(documents, self.subject.tokenizer, self.subject.device)
        with tap(self.subject.model, self.sites) as reading:
            full = self.states.of(inputs)
            scalars = reading.values()
        kept_at = ~ranked_mask(documents, scalars.shape[1]).to(scalars.device)[:, :, None]
        # Scalars of 0 add exactly 0 to every matrix: on these tokens the rows have no adapter.
        with tap(self.subject.model, self.sites, SetTo(torch.where(kept_at, scalars, 0)), read=False):
            base = self.states.of(inputs)
        run = OwnRun(inputs, full, self.states.kl_nats(full, base), scalars, kept_at)
        if run.n_bytes + sum(r.n_bytes for r in self._runs.values()) <= MOST_BYTES:
            self._runs[key] = run
        return run
