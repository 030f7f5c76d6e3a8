"""Gradients from the survivors alone: of a batch's products only one is dense, the encoder's.

A batch of 512 tokens with k = 16 has 8,192 survivors among 1.8 million activations; decoding and all gradients touch
nothing else. The same numbers as `dense.py` up to the order of summation (the tests hold both against autograd).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from ..selection import BatchTop, Entries, Precision, Scanner, products
from .autoencoder import Autoencoder, Objective, Report

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class SurvivorGradients:
    """Callable: a batch in, gradients in the parameters' `.grad`, a Report out. CPU only.

    Objective it does not cover (`activation="none"`, not centred, `aux_of="error"`) is for `DenseGradients`.
    """

    def __init__(self, sae: Autoencoder, maths: Objective, precision: Precision) -> None:
        if maths.activation == "none" or not maths.centred or maths.aux_of != "residual":
            raise ValueError("this maths is computed densely")
        self.sae, self.maths = sae, maths
        signed = maths.activation == "abs"
        self.scanner = Scanner(sae.W_enc.detach(), sae.b_enc.detach(), "fp32" if signed else precision, signed=signed)
        self.top = BatchTop(self.scanner)

    @torch.no_grad()
    def __call__(self, x: Float[torch.Tensor, "token d_in"], dead: Bool[torch.Tensor, " latent"]) -> Report:
        """One batch. `dead` latents take part in the auxiliary loss."""
        sae, maths = self.sae, self.maths
        B, D = x.shape
        centred = x - sae.b_dec
        self.scanner.refresh(sae.decoder_norms() if maths.decoder == "norm-aware" else None)
        kept, threshold = self.top(centred, maths.k * B)
        residual = centred - decoded(kept, sae.W_dec, B)
        errors = (-2 / B) * residual
        fired = torch.zeros(sae.n_latents, dtype=torch.bool)
        fired[kept.latents] = True
        gradients = self._gradients(kept, errors, centred, sae.W_dec)
        if maths.aux_coefficient > 0 and bool(dead.any()):
            gradients = gradients.plus(*self._auxiliary(centred, residual, dead))
        if maths.decoder == "unit-norm":
            gradients.d_dec.addcmul_(sae.W_dec, gradients.along[:, None], value=-1)
        sae.W_dec.grad, sae.W_enc.grad, sae.b_enc.grad = gradients.d_dec, gradients.d_enc, gradients.d_b_enc
        sae.b_dec.grad = errors.sum(0) - gradients.d_b_enc @ sae.W_enc
        return Report(float(residual.square().sum()) / (B * D), threshold, fired, len(kept))

    def _gradients(
        self,
        entries: Entries,
        errors: Float[torch.Tensor, "token d_in"],
        inputs: Float[torch.Tensor, "token d_in"],
        W_dec: Float[torch.Tensor, "latent d_in"],
    ) -> _Gradients:
        """With x^ = z W_dec + b_dec, e = dL/dx^ and z = c W_enc' + b_enc, c = x - b_dec, over the entries of z only."""
        F = len(W_dec)
        starts = entries.starts(F)
        d_values = products(W_dec, errors, entries.tokens, entries.latents)
        return _Gradients(
            d_dec=_bags(entries.tokens, errors, starts, entries.values),
            d_enc=_bags(entries.tokens, inputs, starts, d_values),
            d_b_enc=_sums(entries.latents, d_values, F),
            along=_sums(entries.latents, entries.values * d_values, F),
        )

    def _auxiliary(
        self, centred: torch.Tensor, residual: torch.Tensor, dead: Bool[torch.Tensor, " latent"]
    ) -> tuple[_Gradients, torch.Tensor]:
        """AuxK (Gao et al. 2024, arXiv:2406.04093): dead latents' own activations explain what is left over.

        The residual is a constant, so that the reconstruction is not trained to leave something over; the loss is
        normalised by its variance. Returns the gradients of the dead latents, and which those are.
        """
        sae, maths, B = self.sae, self.maths, len(centred)
        index = torch.nonzero(dead).flatten()
        W_dec = sae.W_dec.index_select(0, index)
        active = self.scanner.pre_activations(centred, index)
        ranked = active.abs() if maths.activation == "abs" else active
        if self.scanner.scale is not None:
            ranked = ranked * self.scanner.scale[index, None]
        found = np.flatnonzero(_highest_of_each_column(ranked, maths.k_aux))
        places, tokens = (torch.from_numpy(part) for part in np.divmod(found, B))
        entries = Entries(tokens, places, active.view(-1)[torch.from_numpy(found)])
        guess = decoded(entries, W_dec, B)
        variance = float((residual - residual.mean(0)).square().sum() / B)
        weight = maths.aux_coefficient * centred.shape[1]
        errors = (guess - residual).mul_(2 * weight / (B * max(variance, 1e-12)))
        return self._gradients(entries, errors, centred, W_dec), index


@dataclass(frozen=True)
class _Gradients:
    """Gradients of some latents.

    With e the error and c the centred input: dz = e . W_dec, dW_dec = z' e, dW_enc = dz' c, db_enc = sum dz. `along` =
    sum z dz is the part of dW_dec along W_dec, which would only change the norm. Through the centring db_dec = sum e -
    db_enc W_enc: no sixth product.
    """

    d_dec: Float[torch.Tensor, "latent d_in"]
    d_enc: Float[torch.Tensor, "latent d_in"]
    d_b_enc: Float[torch.Tensor, " latent"]
    along: Float[torch.Tensor, " latent"]

    def plus(self, other: _Gradients, index: torch.Tensor) -> _Gradients:
        """With those of the latents `index` added in place."""
        for name in ("d_dec", "d_enc", "d_b_enc", "along"):
            getattr(self, name).index_add_(0, index, getattr(other, name))
        return self


def _highest_of_each_column(ranked: Float[torch.Tensor, "latent token"], k: int) -> np.ndarray:
    """Whether an entry is positive and among the k highest of its column."""
    above = ranked.numpy() > 0
    if len(ranked) > k:
        columns = ranked.T.contiguous().numpy()
        columns.partition(len(ranked) - k, axis=1)
        above &= ranked.numpy() >= columns[:, len(ranked) - k]
    return above


def decoded(entries: Entries, W_dec: torch.Tensor, n_tokens: int) -> Float[torch.Tensor, "token d_in"]:
    """Z W_dec from the entries of z."""
    order, starts = entries.by_token(n_tokens)
    return _bags(entries.latents[order], W_dec, starts, entries.values[order])


def _bags(
    rows: torch.Tensor, table: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor
) -> Float[torch.Tensor, "bag d_in"]:
    """Weighted sums of the table's rows; bag i takes rows[starts[i] : starts[i + 1]]."""
    return embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)


def _sums(latents: torch.Tensor, values: torch.Tensor, n: int) -> Float[torch.Tensor, " latent"]:
    return torch.from_numpy(np.bincount(latents.numpy(), weights=values.numpy(), minlength=n)).float()
