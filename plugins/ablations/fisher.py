"""Fisher probes: the KL of every ablation at once, estimated from a few random backward passes.

Give each component a gate, 1 as it is and 0 switched off. The gradient of KL(full ‖ gated) is 0 at gates of 1, so to
second order the KL of switching c off is J_c' F J_c / 2 summed over the headline's tokens, with J_c the change of the
logits by the gate and F = diag(p) - p p' the Fisher information of the next-token distribution p. With xi uniform in
{-1, 1}^vocab, u = sqrt(p) xi - p (sqrt(p) . xi) has covariance F, so that G_c = d/dg_c sum_t u_t . logits_t, one
backward pass, has E[G_c^2] = twice that KL. For a group of components the square of the sum of their G. Estimates are
unbiased for the second order of the KL, and read too high where effects are large (a factor 2 at half a nat and more).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.model.components import Component
from harness.model.taps import component_sites, tap
from harness.records.segments import places
from harness.stats import Estimate, ratio_over_documents

from .divergence import Divergence
from .documents import Texts

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.readout import Readout

_TOKENS_AT_ONCE = 2048
"""Tokens whose backward graph is held at once; a longer document is a piece of its own."""


@dataclass(frozen=True)
class Gated:
    """Edit: `to` + gate * (value - `to`): the values as they are at 1, switched off at 0.

    Attributes:
        gates: require grad.
        to: what switching off sets a component to.
    """

    gates: Float[torch.Tensor, "row component"]
    to: Float[torch.Tensor, " component"]

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Gate one site's values."""
        to = self.to[columns].to(values.dtype)
        return to + self.gates[:, None, columns].to(values.dtype) * (values - to)


@dataclass(frozen=True)
class Probes:
    """The gradients of all probes.

    Attributes:
        gradients: G of each document, probe and component.
        components: their names.
        n_tokens: the headline's tokens of each document.
    """

    gradients: Float[np.ndarray, "document probe component"]
    components: tuple[str, ...]
    n_tokens: Sequence[int]

    @property
    def n_draws(self) -> int:
        """Squares that an estimate averages."""
        return self.gradients.shape[0] * self.gradients.shape[1]

    def estimate(self, off: Sequence[Component], *, seed: int = 0, level: float = 0.95) -> Estimate:
        """KL in nats per token of switching these off, to second order.

        The interval is of the documents, as that of a measured KL, and of the probes' randomness at once: what a
        document's probes average is its KL with an error of its own, and both spread what documents give. It does not
        hold what the second order leaves out.
        """
        names = {c.name for c in off}
        where = [i for i, name in enumerate(self.components) if name in names]
        squares = self.gradients[:, :, where].sum(-1) ** 2
        return ratio_over_documents(squares.mean(1) / 2, self.n_tokens, seed=seed, level=level)


@dataclass(frozen=True)
class Piece:
    """Documents that are probed together.

    Attributes:
        batch: index of their batch.
        rows: where they are in it.
        documents: their indices.
    """

    batch: int
    rows: slice
    documents: tuple[int, ...]


def pieces(texts: Texts) -> list[Piece]:
    """All documents, as many in a piece as `_TOKENS_AT_ONCE` allows."""
    parts = []
    for index, batch in enumerate(texts.batches):
        size = max(1, _TOKENS_AT_ONCE // batch.mask.shape[1])
        for start in range(0, len(batch.documents), size):
            rows = slice(start, start + size)
            parts.append(Piece(index, rows, batch.documents[rows]))
    return parts


Gradients = Iterable[tuple[Piece, "Float[np.ndarray, 'document probe component']"]]


def gathered(gradients: Gradients, components: Sequence[Component], texts: Texts, n_probes: int) -> Probes:
    """Put the gradients of all pieces together."""
    together = np.zeros((len(texts.ids), n_probes, len(components)))
    for piece, of_piece in gradients:
        together[list(piece.documents)] = of_piece
    n_tokens = texts.n_tokens[:, places()].sum(1).tolist()
    return Probes(together, tuple(c.name for c in components), n_tokens)


def probe(
    divergence: Divergence, components: Sequence[Component], piece: Piece, n_probes: int, seed: int
) -> Float[np.ndarray, "document probe component"]:
    """Run the probes of some documents: one forward pass, and `n_probes` backward passes.

    Args:
        divergence: the documents, the model and what switching off means.
        components: all components of the adapter.
        piece: which documents.
        n_probes: backward passes per document.
        seed: of the random signs.
    """
    batch, rows, documents = divergence.texts.batches[piece.batch], piece.rows, piece.documents
    width = int(batch.inputs["attention_mask"][rows].sum(1).max())
    inputs = {name: value[rows, :width] for name, value in batch.inputs.items()}
    mask = batch.headline[rows, :width]
    gates = torch.ones(len(documents), len(components), device=mask.device, requires_grad=True)
    to = torch.tensor([divergence.to.get(c.name, 0.0) for c in components], device=mask.device)
    with torch.enable_grad(), tap(divergence.model, component_sites(components), Gated(gates, to), read=False):
        hidden = divergence.blocks.run(inputs)
    # A generator per piece: a resumed run draws the same signs.
    generator = torch.Generator(mask.device).manual_seed(seed * 1_000_003 + documents[0])
    pulled = _pulled(divergence.readout, hidden.detach()[mask], n_probes, generator)
    gradients = []
    for i in range(n_probes):
        back = torch.zeros_like(hidden)
        back[mask] = pulled[i].to(hidden.dtype)
        (gradient,) = torch.autograd.grad(hidden, gates, back, retain_graph=i + 1 < n_probes)
        gradients.append(gradient.double().cpu().numpy())
    return np.stack(gradients, axis=1)


@torch.no_grad()
def _pulled(
    readout: Readout, hidden: torch.Tensor, n_probes: int, generator: torch.Generator
) -> Float[torch.Tensor, "probe token hidden"]:
    """U of each probe and token, pulled back through the output matrix; one chunk of logits at a time."""
    pulled = hidden.new_empty(n_probes, *hidden.shape)
    for chunk in readout.chunks(len(hidden)):
        p = torch.softmax(readout.precise_logits(hidden[chunk]), -1)
        root = p.sqrt()
        for i in range(n_probes):
            signed = torch.empty_like(p).bernoulli_(0.5, generator=generator).mul_(2).sub_(1).mul_(root)
            inner = signed.sum(-1, keepdim=True)
            pulled[i, chunk] = readout.pull(signed - p * inner)
    return pulled
