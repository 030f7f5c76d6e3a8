"""Latents that are active in both directions: a signed scalar needs one of them, and two that are never negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scipy.sparse import csr_array

from harness.dictionaries.weights import Weights

from .sae import JumpRelu

if TYPE_CHECKING:
    from jaxtyping import Float


class SignedJumpRelu(JumpRelu):
    """A fitted dictionary in raw units: z = pre where |pre| > threshold, else 0. Each token's code is its own.

    With a k only the k codes of largest magnitude are kept.

    Computed as the unsigned dictionary of its polarities, so what holds for JumpRelu on a CPU holds here.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], k: int | None = None) -> None:
        super().__init__(tensors, k)
        weights = Weights(signed=True, **cast("dict[str, Any]", tensors))
        self._polarities = JumpRelu(weights.unsigned().tensors(), k)

    @torch.no_grad()
    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes of tokens, of both signs."""
        if x.device.type == "cpu":
            return torch.from_numpy(self.encode_sparse(x).toarray())
        self.to(x.device)
        pre = (x.float() - self.b_dec) @ self.W_enc + self.b_enc
        return self._largest(pre * (pre.abs() > self.threshold))

    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        """The same codes as `encode`, [token, n_latents] float32, without the zeros."""
        if x.device.type != "cpu":
            return csr_array(self.encode(x).cpu().numpy())
        both = self._polarities.encode_sparse(x)
        values = np.where(both.indices % 2, -both.data, both.data)
        return csr_array((values, both.indices // 2, both.indptr), shape=(len(x), len(self.b_enc)))
