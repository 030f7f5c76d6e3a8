"""KL divergence between next-token distributions, in nats, without cancellation.

KL(p ‖ q) = log1p(E_p[expm1(d) - d]) with d = (logits_q - logits_p) - E_p[logits_q - logits_p]. Every term is
non-negative, so it is >= 0 by construction and exactly 0 for equal logits, and it keeps relative accuracy at 1e-8
nats where log-softmax differences (and bf16, as in the paper's code) read noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float


def kl_nats(
    logits_p: Float[torch.Tensor, "*batch vocab"], logits_q: Float[torch.Tensor, "*batch vocab"]
) -> Float[torch.Tensor, "*batch"]:
    """KL(p ‖ q) per position, in nats. p is the reference (the full adapter), q the ablated one.

    Computed in float32 (float64 if the inputs are): differences are taken before anything is exponentiated. Where a
    logit differs by more than 80 nats expm1 would overflow float32, and the log-softmax form is accurate: it is used
    for those positions.
    """
    dtype = torch.float64 if logits_p.dtype == torch.float64 else torch.float32
    p_logits, q_logits = logits_p.to(dtype), logits_q.to(dtype)
    p = torch.softmax(p_logits, dim=-1)
    d = q_logits - p_logits
    d = d - (p * d).sum(-1, keepdim=True)
    kl = torch.log1p((p * (torch.expm1(d) - d)).sum(-1))
    large = d.abs().amax(-1) > 80.0
    if bool(large.any()):
        log_p, log_q = torch.log_softmax(p_logits, -1), torch.log_softmax(q_logits, -1)
        kl = torch.where(large, (p * (log_p - log_q)).sum(-1), kl)
    return kl
