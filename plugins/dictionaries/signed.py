"""Latents that are active in both directions: a signed scalar needs one of them, and two that are never negative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy.sparse import csr_array

from .sae import JumpRelu

if TYPE_CHECKING:
    from jaxtyping import Float


class SignedJumpRelu(JumpRelu):
    """A fitted dictionary in raw units: z = pre where |pre| > threshold, else 0. Each token's code is its own."""

    @torch.no_grad()
    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes of tokens, of both signs."""
        self.to(x.device)
        pre = (x.float() - self.b_dec) @ self.W_enc + self.b_enc
        return pre * (pre.abs() > self.threshold)

    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        """The same codes as `encode`, without the zeros."""
        return csr_array(self.encode(x).cpu().numpy())
