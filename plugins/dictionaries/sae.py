"""The batch-top-k autoencoder: its maths while it is trained, and the JumpReLU it becomes.

BatchTopK (Bussmann, Leask, Nanda 2024, arXiv:2412.06410): of all pre-activations of a batch the k x batch largest
survive, so that a token gets as many latents as it needs. At inference a fixed threshold takes the batch's place: a
token's code is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Losses:
    """One batch's losses.

    Attributes:
        total: what is minimised.
        reconstruction: mean squared error per token and column (1 is as bad as the mean, for standardised columns).
        codes: [token, latent], detached.
        threshold: the smallest activation that survived; 0 if fewer than k per token were positive.
    """

    total: torch.Tensor
    reconstruction: torch.Tensor
    codes: torch.Tensor
    threshold: float


class BatchTopK(nn.Module):
    """z = batch_topk(relu((x - b_dec) W_enc + b_enc)), x^ = z W_dec + b_dec, rows of W_dec of norm 1."""

    def __init__(self, centre: Float[torch.Tensor, " d_in"], n_latents: int, generator: torch.Generator) -> None:
        super().__init__()
        directions = torch.randn(n_latents, len(centre), generator=generator)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.b_dec = nn.Parameter(centre.clone())

    def losses(
        self,
        x: Float[torch.Tensor, "token d_in"],
        *,
        k: int,
        dead: torch.Tensor,
        k_aux: int,
        aux_coefficient: float,
        guess: float = 0.0,
    ) -> Losses:
        """Reconstruction error, plus the auxiliary loss where latents are dead (bool [latent]).

        `guess` speeds up the selection and does not change it (see `nth_largest`)."""
        active = torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        threshold = nth_largest(active, k * len(x), guess=guess)
        codes = active * (active >= threshold)
        residual = x - (codes @ self.W_dec + self.b_dec)
        reconstruction = residual.square().mean()
        total = reconstruction
        if aux_coefficient > 0 and bool(dead.any()):
            total = total + aux_coefficient * self._auxiliary(active, residual.detach(), dead, k_aux)
        return Losses(total, reconstruction.detach(), codes.detach(), threshold)

    def _auxiliary(self, active: torch.Tensor, residual: torch.Tensor, dead: torch.Tensor, k_aux: int) -> torch.Tensor:
        """AuxK (Gao et al. 2024, arXiv:2406.04093): the dead latents' own activations explain what is left over.

        The residual is detached, so that the reconstruction is not trained to leave something over; normalised by the
        residual's variance.
        """
        values, columns = active[:, dead].topk(min(k_aux, int(dead.sum())), dim=1)
        guess = torch.zeros(len(active), int(dead.sum())).scatter(1, columns, values) @ self.W_dec[dead]
        variance = (residual - residual.mean(0)).square().mean().clamp_min(1e-12)
        return (residual - guess).square().mean() / variance

    @torch.no_grad()
    def drop_parallel_gradient(self) -> None:
        """Take out of W_dec's gradient what would only change the rows' norms."""
        if self.W_dec.grad is not None:
            self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring the rows of W_dec back to norm 1."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))


def nth_largest(active: Float[torch.Tensor, "token latent"], n: int, *, guess: float = 0.0) -> float:
    """The n-th largest entry of a batch; the smallest where it has fewer.

    numpy's introselect over the entries above a `guess` (half the last batch's threshold, say) is several times faster
    than a flat torch.topk; where too few are above it, all are looked at.
    """
    flat = active.detach().cpu().flatten().numpy()
    likely = flat[flat > guess]
    flat = likely if len(likely) >= n else flat
    place = max(len(flat) - n, 0)
    return float(np.partition(flat, place)[place])


class JumpRelu(nn.Module):
    """A fitted dictionary in raw units: z = pre where pre > threshold, else 0. Each token's code is its own.

    It moves to where its inputs are.
    """

    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_enc: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float())

    @torch.no_grad()
    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        """Codes of tokens, never negative."""
        self.to(x.device)
        pre = (x.float() - self.b_dec) @ self.W_enc + self.b_enc
        return torch.relu(pre) * (pre > self.threshold)

    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        """The same codes as `encode`, without the zeros."""
        return csr_array(self.encode(x).cpu().numpy())

    @torch.no_grad()
    def decode(self, z: Float[torch.Tensor, "token n_latents"]) -> Float[torch.Tensor, "token d_in"]:
        """Reconstruction in the columns' raw units."""
        self.to(z.device)
        return z.float() @ self.W_dec + self.b_dec
