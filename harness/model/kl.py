"""KL divergence between next-token distributions, in nats, without cancellation.

KL(p ‖ q) = log1p(E_p[expm1(d) - d]) with d = (logits_q - logits_p) - E_p[logits_q - logits_p]. Every term is
non-negative, so it is >= 0 by construction and exactly 0 for equal logits, and it keeps relative accuracy at 1e-8
nats where log-softmax differences (and bf16, as in the paper's code) read noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_SMALL = 0.02
"""Below it expm1(d) - d is summed as a series: its relative error is under 2e-7, and nothing cancels."""
_LARGE = 80.0
"""Above it expm1 would overflow float32."""


@dataclass(frozen=True)
class Reference:
    """Next-token distributions that others are compared with.

    Attributes:
        log_p: their log-probabilities, float32 (float64 if the logits were).
        p: their probabilities.
    """

    log_p: Float[torch.Tensor, "*batch vocab"]
    p: Float[torch.Tensor, "*batch vocab"]

    @classmethod
    def of(cls, logits: Float[torch.Tensor, "*batch vocab"]) -> Reference:
        """The distributions with these logits."""
        log_p = torch.log_softmax(logits.to(_precise(logits.dtype)), dim=-1)
        return cls(log_p, log_p.exp())

    def cross_entropy(self, target: Int[torch.Tensor, "*batch"]) -> Float[torch.Tensor, "*batch"]:
        """-log p(target), in nats."""
        return -self.log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Comparison:
    """Other distributions q against a reference p.

    Attributes:
        kl_nats: KL(p ‖ q).
        centred: how q's logits differ from p's, minus its mean under p.
    """

    kl_nats: Float[torch.Tensor, "*batch"]
    centred: Float[torch.Tensor, "*batch vocab"]

    def cross_entropy_change(self, target: Int[torch.Tensor, "*batch"]) -> Float[torch.Tensor, "*batch"]:
        """Log p(target) - log q(target), in nats: the KL is also log E_p[exp(centred)], so nothing cancels here."""
        return self.kl_nats - self.centred.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def compare(reference: Reference, difference: Float[torch.Tensor, "*batch vocab"]) -> Comparison:
    """KL(p ‖ q) per position where q's logits are p's plus `difference`.

    Where a logit differs by more than 80 nats expm1 would overflow float32, and the log-softmax form is accurate: it is
    used for those positions.
    """
    p = reference.p
    d = difference.to(p.dtype)
    d = d - (p * d).sum(-1, keepdim=True)
    largest = d.abs().amax(-1)
    top = float(largest.max()) if largest.numel() else 0.0
    if top < _SMALL:
        excess = d * (1 / 24)
        excess = excess.add_(1 / 6).mul_(d).add_(1 / 2).mul_(d).mul_(d)
    else:
        excess = torch.expm1(d).sub_(d)
    kl = torch.log1p(excess.mul_(p).sum(-1))
    if top > _LARGE:
        kl = torch.where(largest > _LARGE, torch.logsumexp(reference.log_p + d, -1), kl)
    return Comparison(kl, d)


def kl_nats(
    logits_p: Float[torch.Tensor, "*batch vocab"], logits_q: Float[torch.Tensor, "*batch vocab"]
) -> Float[torch.Tensor, "*batch"]:
    """KL(p ‖ q) per position, in nats. p is the reference (the full adapter), q the ablated one.

    Computed in float32 (float64 if the inputs are): differences are taken before anything is exponentiated. Where both
    hidden states are at hand, their difference through the output matrix (`harness.model.readout`) is more accurate
    than the difference of two logits.
    """
    reference = Reference.of(logits_p)
    return compare(reference, logits_q.to(reference.p.dtype) - logits_p.to(reference.p.dtype)).kl_nats


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
