"""The mean effect of a direction on the output over real text, for every direction at once from few backward passes.

The effect of writing d into a module on token v is the mean over the response's positions t of d log p_t(v) / d e,
where e d is added to the module's output at every token: the average causal effect of steering, to first order in its
size (attribution patching: Nanda 2023; Syed, Rager and Conmy 2023, arXiv 2310.10348). It is linear in d, so the
gradient G_v of the mean by a bias on the module's output gives it for any d, as G_v . d. A backward pass per token v
gives G_v of all modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.contract.progress import Progress
from harness.model.blocks import Blocks
from harness.model.readout import Readout
from harness.model.taps import Site, tap

from ..documents import Texts
from ..fisher import pieces

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.subject import Subject


@dataclass(frozen=True)
class Gradients:
    """Gradients of the mean log-probability of tokens.

    Attributes:
        tokens: their ids.
        of: module -> [token, d_out], by a bias on its output, in nats.
        n_tokens: positions that were averaged.
    """

    tokens: tuple[int, ...]
    of: dict[str, Float[torch.Tensor, "token d_out"]]
    n_tokens: int


@dataclass(frozen=True)
class AddBias:
    """Edit: add a bias to the output of each site, the same on every token.

    Attributes:
        bias: of all sites' columns.
    """

    bias: Float[torch.Tensor, " column"]

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Shift one site's values."""
        return values + self.bias[columns].to(values.dtype)


def frequent_tokens(texts: Texts, n: int) -> tuple[int, ...]:
    """The tokens that follow most often in the texts, most frequent first; of equal ones the smaller id."""
    counts: Counter[int] = Counter()
    for batch in texts.batches:
        counts.update(batch.targets[batch.has_target].tolist())
    return tuple(sorted(counts, key=lambda v: (-counts[v], v))[:n])


def mean_gradients(
    subject: Subject, modules: Sequence[str], texts: Texts, tokens: Sequence[int], progress: Progress
) -> Gradients:
    """Run the documents forward once, and backward once per token.

    Raises:
        ModelError: the model's logits cannot be read (`Readout`).
    """
    widths = [subject.model.get_submodule(m).out_features for m in modules]
    sites = [Site(m, "output", width) for m, width in zip(modules, widths, strict=True)]
    blocks, readout = Blocks(subject.model), Readout(subject.model)
    total = torch.zeros(len(tokens), sum(widths), dtype=torch.float64)
    texts = texts.on(subject.device)
    parts, n_positions = pieces(texts), 0
    progress.start(len(parts) * len(tokens), "backward pass")
    for piece in parts:
        batch = texts.batches[piece.batch]
        inputs = {name: value[piece.rows] for name, value in batch.inputs.items()}
        mask = batch.headline[piece.rows]
        bias = torch.zeros(sum(widths), device=mask.device, requires_grad=True)
        with torch.enable_grad(), tap(subject.model, sites, AddBias(bias), read=False):
            hidden = blocks.run(inputs)
        expected = _expected_rows(readout, hidden.detach()[mask])
        n_positions += int(mask.sum())
        for i, token in enumerate(tokens):
            back = torch.zeros_like(hidden)
            back[mask] = (readout.weight[token].detach().to(expected) - expected).to(hidden.dtype)
            (gradient,) = torch.autograd.grad(hidden, bias, back, retain_graph=i + 1 < len(tokens))
            total[i] += gradient.double().cpu()
            progress.advance()
    split = (total / max(1, n_positions)).float().split(widths, 1)
    return Gradients(tuple(tokens), dict(zip(modules, split, strict=True)), n_positions)


@torch.no_grad()
def _expected_rows(
    readout: Readout, hidden: Float[torch.Tensor, "token hidden"]
) -> Float[torch.Tensor, "token hidden"]:
    """Sum over v of p(v) times row v of the output matrix: the part of the gradient that all tokens share."""
    parts = [readout.pull(torch.softmax(readout.precise_logits(hidden[c]), -1)) for c in readout.chunks(len(hidden))]
    rows = torch.cat(parts)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def effects(
    gradients: Gradients, modules: Sequence[str], written: Sequence[Float[torch.Tensor, " d_out"]]
) -> Float[torch.Tensor, "component token"]:
    """Of each direction written into its module."""
    return torch.stack([gradients.of[m] @ d for m, d in zip(modules, written, strict=True)])


def null_effects(
    gradients: Gradients, modules: Sequence[str], norms: Sequence[float], n: int, generator: torch.Generator
) -> Float[torch.Tensor, "component null token"]:
    """The effects of `n` random directions of each norm in each module."""
    drawn = []
    for module, norm in zip(modules, norms, strict=True):
        random = torch.randn(n, gradients.of[module].shape[1], generator=generator)
        drawn.append((random * (norm / random.norm(dim=1, keepdim=True))) @ gradients.of[module].T)
    return torch.stack(drawn)
