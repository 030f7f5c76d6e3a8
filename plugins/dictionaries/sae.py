"""JumpRelu: the autoencoder that batch-top-k training leaves behind.

In training the k x batch largest activations of a batch survive (BatchTopK: Bussmann, Leask, Nanda 2024,
arXiv:2412.06410), so that a token gets as many latents as it needs. At inference a fixed threshold takes the batch's
place: a token's code is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from .selection import Scanner, best_precision

if TYPE_CHECKING:
    from jaxtyping import Float


class JumpRelu(nn.Module):
    """A fitted dictionary in raw units: z = pre where pre > threshold, else 0; pre = (x - b_dec) W_enc + b_enc.

    With a k (TopK dictionaries) only the k largest codes of a token are kept; of equal ones the first latents.
    It moves to where its inputs are. On a CPU a token's code is the same to the last bit whatever its batch, and dense
    and sparse codes are equal.
    """

    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_enc: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, tensors: dict[str, torch.Tensor], k: int | None = None) -> None:
        super().__init__()
        self.k = k
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float())
        self._scanner: Scanner | None = None

    @torch.no_grad()
    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes of tokens, never negative."""
        if x.device.type == "cpu":
            return torch.from_numpy(self.encode_sparse(x).toarray())
        self.to(x.device)
        pre = (x.float() - self.b_dec) @ self.W_enc + self.b_enc
        return self._largest(torch.relu(pre) * (pre > self.threshold))

    def _largest(self, z: Float[torch.Tensor, "token n_latents"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes without all but the k of largest magnitude."""
        if self.k is None or self.k >= z.shape[1]:
            return z
        latents = z.abs().topk(self.k, dim=1, sorted=False).indices
        return torch.zeros_like(z).scatter_(1, latents, z.gather(1, latents))

    @torch.no_grad()
    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        """The same codes as `encode`, [token, n_latents] float32, without the zeros."""
        if x.device.type != "cpu":
            return csr_array(self.encode(x).cpu().numpy())
        self.to("cpu")
        if self._scanner is None:
            weight = self.W_enc.T.contiguous()
            self._scanner = Scanner(weight, self.b_enc, best_precision(weight))
            self._scanner.refresh()
        active = self._scanner.above(x.float() - self.b_dec, max(float(self.threshold.min()), 0.0))
        active = active[active.values > self.threshold[active.latents]]
        order, starts = active.by_token(len(x))
        ends = np.append(starts.numpy(), len(active))
        codes = (active.values[order].numpy(), active.latents[order].numpy(), ends)
        return largest_codes(csr_array(codes, shape=(len(x), len(self.b_enc))), self.k)

    @torch.no_grad()
    def decode(self, z: Float[torch.Tensor, "token n_latents"]) -> Float[torch.Tensor, "token d_in"]:
        """Reconstruction in the columns' raw units."""
        self.to(z.device)
        return z.float() @ self.W_dec + self.b_dec


def largest_codes(codes: csr_array, k: int | None) -> csr_array:
    """Codes without all but each token's k largest; k None keeps all."""
    if k is None:
        return codes
    counts = np.diff(codes.indptr)
    tokens = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((codes.indices, -codes.data, tokens))
    place = np.arange(codes.nnz) - codes.indptr[tokens]
    largest = np.sort(order[place < k])
    ends = np.concatenate(([0], np.cumsum(np.minimum(counts, k)))).astype(codes.indptr.dtype)
    return csr_array((codes.data[largest], codes.indices[largest], ends), shape=codes.shape)
