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
from harness.stats import t_quantile

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
        by_document: [document, component, token] of the directions that are written, summed over each document.
        document_tokens: [document] positions of each.
    """

    tokens: tuple[int, ...]
    of: dict[str, Float[torch.Tensor, "token d_out"]]
    n_tokens: int
    by_document: Float[torch.Tensor, "document component token"]
    document_tokens: Float[torch.Tensor, " document"]


@dataclass(frozen=True)
class AddBias:
    """Edit: add a bias to the output of each site, the same on every token.

    Attributes:
        bias: of all sites' columns; one for all documents of the batch, or one each.
    """

    bias: Float[torch.Tensor, "*document column"]

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Shift one site's values."""
        return values + self.bias[..., None, columns].to(values.dtype)


def frequent_tokens(texts: Texts, n: int) -> tuple[int, ...]:
    """The tokens that follow most often in the texts, most frequent first; of equal ones the smaller id."""
    counts: Counter[int] = Counter()
    for batch in texts.batches:
        counts.update(batch.targets[batch.has_target].tolist())
    return tuple(sorted(counts, key=lambda v: (-counts[v], v))[:n])


def mean_gradients(
    subject: Subject,
    modules: Sequence[str],
    written: Sequence[Float[torch.Tensor, " d_out"]],
    texts: Texts,
    tokens: Sequence[int],
    progress: Progress,
) -> Gradients:
    """Run the documents forward once, and backward once per token.

    Args:
        subject: the model.
        modules: of each component.
        written: of each component, the direction in its module's output.
        texts: the documents.
        tokens: whose log-probability the gradient is of.
        progress: a backward pass at a time.

    Raises:
        ModelError: the model's logits cannot be read (`Readout`).
    """
    distinct = list(dict.fromkeys(modules))
    widths = [subject.model.get_submodule(m).out_features for m in distinct]
    sites = [Site(m, "output", width) for m, width in zip(distinct, widths, strict=True)]
    blocks, readout = Blocks(subject.model), Readout(subject.model)
    total = torch.zeros(len(tokens), sum(widths), dtype=torch.float64)
    texts = texts.on(subject.device)
    parts = pieces(texts)
    by_document, n_of = torch.zeros(len(texts.ids), len(modules), len(tokens)), torch.zeros(len(texts.ids))
    progress.start(len(parts) * len(tokens), "backward pass")
    for piece in parts:
        batch = texts.batches[piece.batch]
        inputs = {name: value[piece.rows] for name, value in batch.inputs.items()}
        mask = batch.headline[piece.rows]
        bias = torch.zeros(len(mask), sum(widths), device=mask.device, requires_grad=True)
        with torch.enable_grad(), tap(subject.model, sites, AddBias(bias), read=False):
            hidden = blocks.run(inputs)
        expected = _expected_rows(readout, hidden.detach()[mask])
        documents = list(piece.documents)
        n_of[documents] = mask.sum(1).float().cpu()
        for i, token in enumerate(tokens):
            back = torch.zeros_like(hidden)
            back[mask] = (readout.weight[token].detach().to(expected) - expected).to(hidden.dtype)
            (gradient,) = torch.autograd.grad(hidden, bias, back, retain_graph=i + 1 < len(tokens))
            of_each = dict(zip(distinct, gradient.cpu().split(widths, 1), strict=True))
            for c, (module, direction) in enumerate(zip(modules, written, strict=True)):
                by_document[documents, c, i] = (of_each[module] @ direction.to(gradient.dtype)).float()
            total[i] += gradient.double().sum(0).cpu()
            progress.advance()
    n = int(n_of.sum())
    split = (total / max(1, n)).float().split(widths, 1)
    return Gradients(tuple(tokens), dict(zip(distinct, split, strict=True)), n, by_document, n_of)


def half_widths(sums: Float[torch.Tensor, "document ..."], n: Float[torch.Tensor, " document"]) -> torch.Tensor | None:
    """Half of the 95 % interval of a mean over all tokens, documents as clusters; None of fewer than two documents.

    The linearised variance of a ratio of sums (Cochran 1977, "Sampling Techniques", section 6.4) with Student's t.
    """
    sums, n = sums[n > 0].double(), n[n > 0].double()
    if len(n) < 2:
        return None
    mean = sums.sum(0) / n.sum()
    apart = sums - n.view(-1, *[1] * mean.dim()) * mean
    error = (len(n) / (len(n) - 1) * apart.square().sum(0)).sqrt() / n.sum()
    return (t_quantile(0.95, len(n) - 1) * error).float()


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
