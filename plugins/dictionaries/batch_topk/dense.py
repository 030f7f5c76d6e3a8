"""Gradients by autograd over dense codes: the default on an accelerator, and the paper's variant.

On a GPU one large product costs less than finding what to leave out of it; on a CPU see `survivors.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .autoencoder import Autoencoder, Objective, Report

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class DenseGradients:
    """Callable: a batch in, gradients in the parameters' `.grad`, a Report out. Any device, any maths."""

    def __init__(self, sae: Autoencoder, maths: Objective) -> None:
        self.sae, self.maths = sae, maths

    def __call__(self, x: Float[torch.Tensor, "token d_in"], dead: Bool[torch.Tensor, " latent"]) -> Report:
        """One batch. `dead` latents take part in the auxiliary loss."""
        sae, maths = self.sae, self.maths
        sae.zero_grad(set_to_none=True)
        active = _activations(sae, maths, x)
        norms = sae.decoder_norms() if maths.decoder == "norm-aware" else None
        codes, threshold = _batch_top(active, norms, maths)
        residual = x - (codes @ sae.W_dec + sae.b_dec)
        squared = residual.square().sum()
        total = squared / len(x)
        if maths.aux_coefficient > 0 and bool(dead.any()):
            total = total + maths.aux_coefficient * self._auxiliary(active, residual, norms, dead)
        total.backward()
        if maths.decoder == "unit-norm":
            _drop_parallel_gradient(sae)
        fired = codes.detach() != 0
        return Report(float(squared.detach()) / x.numel(), threshold, fired.any(0), int(fired.sum()))

    def _auxiliary(
        self, active: torch.Tensor, residual: torch.Tensor, norms: torch.Tensor | None, dead: torch.Tensor
    ) -> torch.Tensor:
        sae, maths = self.sae, self.maths
        n = min(maths.k_aux, int(dead.sum()))
        if maths.aux_of == "error":
            active = residual @ sae.W_enc[dead].T + sae.b_enc[dead]
        else:
            active, residual = active[:, dead], residual.detach()
        ranked = active.abs() if maths.activation == "abs" else active
        ranked = ranked if norms is None else ranked * norms[dead]
        columns = ranked.topk(n, dim=1).indices
        codes = torch.zeros_like(active).scatter(1, columns, active.gather(1, columns))
        squared = (residual - codes @ sae.W_dec[dead]).square().sum(1).mean()
        if maths.aux_of == "error":
            return squared
        variance = (residual - residual.mean(0)).square().sum(1).mean()
        return squared / variance.clamp_min(1e-12) * residual.shape[1]


def reconstructed(
    sae: Autoencoder, maths: Objective, x: Float[torch.Tensor, "token d_in"]
) -> Float[torch.Tensor, "token d_in"]:
    """What the codes of one batch, selected as in training, say of it."""
    norms = sae.decoder_norms() if maths.decoder == "norm-aware" else None
    codes, _ = _batch_top(_activations(sae, maths, x), norms, maths)
    return codes @ sae.W_dec + sae.b_dec


def _activations(sae: Autoencoder, maths: Objective, x: torch.Tensor) -> Float[torch.Tensor, "token latent"]:
    active = (x - sae.b_dec if maths.centred else x) @ sae.W_enc.T + sae.b_enc
    return torch.relu(active) if maths.activation == "relu" else active


def _batch_top(
    active: Float[torch.Tensor, "token latent"], norms: torch.Tensor | None, maths: Objective
) -> tuple[Float[torch.Tensor, "token latent"], float]:
    """Codes of a batch, and the lowest score among them."""
    scores = active.detach().abs() if maths.activation == "abs" else active.detach()
    scores = scores if norms is None else scores * norms
    n = min(maths.k * len(active), active.numel())
    values, places = scores.flatten().topk(n, sorted=False)
    if maths.activation != "none":
        values, places = values[values > 0], places[values > 0]
    codes = torch.zeros_like(active).flatten().scatter(0, places, active.flatten()[places])
    return codes.view_as(active), float(values.min()) if len(values) else 0.0


@torch.no_grad()
def _drop_parallel_gradient(sae: Autoencoder) -> None:
    """Take out of W_dec's gradient what would only change the rows' norms."""
    gradient = sae.W_dec.grad
    assert gradient is not None
    gradient -= (gradient * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
