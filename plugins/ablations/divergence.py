"""KL(full ‖ ablated) per document over fixed text, one chunk of logits at a time.

The full adapter's last hidden states are computed once and kept (they are small); logits (vocabulary-sized) exist only
for a chunk of tokens. The ablated logits are the full ones plus head(h_ablated - h_full): the difference goes through
the head, not two large numbers, so a bfloat16 head costs at most a part in a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from harness.errors import DataError, ModelError
from harness.model.chat import Document
from harness.model.components import Component
from harness.model.kl import kl_nats
from harness.model.taps import Edit, SetTo, ablate, component_sites, tap
from harness.records import Trace

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from harness.model.subject import Subject

    from .config import KLConfig

_CHUNK_BYTES = 64 * 2**20
"""Logits of a chunk of tokens, in float32."""


@dataclass(frozen=True)
class Batch:
    """Documents side by side, padded on the right, with the full adapter's last hidden states."""

    ids: Int[torch.Tensor, "document token"]
    mask: torch.Tensor
    hidden: Float[torch.Tensor, "document token hidden"]


def choose(traces: Sequence[Trace], n: int, generator: torch.Generator) -> list[Trace]:
    """`n` traces drawn without replacement, sorted by id; all where there are fewer.

    Raises:
        DataError: there are no traces.
    """
    if not traces:
        raise DataError("there are no traces to measure on")
    drawn = torch.randperm(len(traces), generator=generator)[:n].tolist()
    return sorted((traces[i] for i in drawn), key=lambda t: t.id)


class Divergence:
    """KL between the full adapter and ablations of it, on the same documents.

    Attributes:
        n_tokens: tokens of each document that count.
    """

    def __init__(self, subject: Subject, traces: Sequence[Trace], config: KLConfig, generator: torch.Generator) -> None:
        """Choose documents and run the full adapter over them once.

        Raises:
            ModelError: the subject has no adapter.
            DataError: there are no traces.
        """
        if not subject.components:
            raise ModelError("there is no adapter to ablate: the checkpoint is a base or a fully fine-tuned model")
        self._subject, self._mode = subject, config.mode
        chosen = choose(traces, config.n_documents, generator)
        documents = [subject.chat.document(subject.tokenizer, t) for t in chosen]
        lengths = [min(len(d.ids), config.max_tokens) for d in documents]
        self.n_tokens = tuple(lengths)
        base = subject.model.get_base_model()
        self._backbone, self._head = base.base_model, base.get_output_embeddings()
        size = config.batch_size
        self._batches = [
            self._batch(documents[i : i + size], lengths[i : i + size]) for i in range(0, len(documents), size)
        ]
        self._check_head()
        self._means = self._component_means() if config.mode == "mean" else None

    @torch.inference_mode()
    def kl_sums(self, off: Sequence[Component]) -> list[float]:
        """Sum over tokens of KL(full ‖ without `off`), in nats, per document in the order of `n_tokens`."""
        sites, edit = self._edit(off)
        sums: list[float] = []
        for batch in self._batches:
            with tap(self._subject.model, sites, edit, read=False):
                ablated = self._hidden(batch.ids, batch.mask)
            for row, mask in enumerate(batch.mask.bool()):
                sums.append(self._kl_sum(batch.hidden[row, mask], ablated[row, mask]))
        return sums

    def _edit(self, off: Sequence[Component]) -> tuple[Any, Edit]:
        """Only the touched modules are tapped; the others run as they are."""
        modules = {c.module for c in off}
        near = [c for c in self._subject.components if c.module in modules]
        if self._means is None:
            gate = ablate(near, off)
            return component_sites(near), type(gate)(gate.gates.to(self._subject.device))
        names = {c.name for c in off}
        where = torch.tensor([c.name in names for c in near], device=self._subject.device)
        means = torch.stack([self._means[c.name] for c in near])
        return component_sites(near), SetTo(means, where)

    @torch.inference_mode()
    def _batch(self, documents: Sequence[Document], lengths: Sequence[int]) -> Batch:
        device = self._subject.device
        ids = torch.full((len(documents), max(lengths)), int(self._subject.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, (document, n) in enumerate(zip(documents, lengths, strict=True)):
            ids[row, :n] = torch.tensor(document.ids[:n])
            mask[row, :n] = 1
        ids, mask = ids.to(device), mask.to(device)
        return Batch(ids, mask, self._hidden(ids, mask))

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # use_cache=False: a cache that outlives the pass makes key and value ablations read exactly 0.
        output: torch.Tensor = self._backbone(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        return output

    @torch.inference_mode()
    def _check_head(self) -> None:
        """Models that rescale or cap their logits after the head would be measured wrongly: refuse them."""
        batch = self._batches[0]
        ids, mask = batch.ids[:1, :8], batch.mask[:1, :8]
        logits = self._subject.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        ours = self._head(self._hidden(ids, mask)).float()
        if not torch.allclose(logits, ours, rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
            name = type(self._subject.model.get_base_model()).__name__
            raise ModelError(f"{name} changes its logits after the output matrix; ablations do not support that yet")

    def _kl_sum(self, full: torch.Tensor, ablated: torch.Tensor) -> float:
        """Sum of KL over the tokens of one document, summed in float64."""
        weight = self._head.weight
        chunk = max(1, _CHUNK_BYTES // (4 * weight.shape[0]))
        total = 0.0
        for start in range(0, len(full), chunk):
            h, g = full[start : start + chunk], ablated[start : start + chunk]
            p = self._head(h).float()
            q = p + F.linear((g.float() - h.float()).to(weight.dtype), weight).float()
            total += float(kl_nats(p, q).double().sum())
        return total

    @torch.inference_mode()
    def _component_means(self) -> dict[str, torch.Tensor]:
        components = self._subject.components
        total = torch.zeros(len(components), dtype=torch.float64, device=self._subject.device)
        for batch in self._batches:
            with tap(self._subject.model, component_sites(components)) as reading:
                self._hidden(batch.ids, batch.mask)
            total += (reading.values().double() * batch.mask.unsqueeze(-1)).sum((0, 1))
        means = (total / sum(self.n_tokens)).float()
        return {c.name: means[i] for i, c in enumerate(components)}
