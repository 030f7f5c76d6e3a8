"""The autoencoder while it is trained: its parameters, and what of the maths can be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Objective:
    """What is computed, whichever way it is computed (by survivors or densely).

    Attributes:
        k: latents per token, on average over the batch.
        decoder: `unit-norm`: rows of W_dec are kept at norm 1 and latents ranked by activation. `norm-aware`: rows are
            free and latents ranked by activation times row norm, the size of what they write.
        activation: `relu`: only positive pre-activations survive. `abs`: signed latents, ranked by size. `none`: ranked
            by the signed pre-activation, negative ones survive where positive ones are too few (the paper's code).
        centred: whether b_dec is subtracted before encoding.
        k_aux: dead latents per token in the auxiliary loss.
        aux_coefficient: its weight; 0 switches it off. Of `residual` the loss is normalised by the residual's variance
            and weighed against the squared error per column, so that it means the same at any width.
        aux_of: `residual`: dead latents' activations of x explain what is left over, which is detached (Gao et al.
            2024). `error`: they encode the error itself, which is not detached (the paper's code).
    """

    k: int
    decoder: Literal["unit-norm", "norm-aware"] = "unit-norm"
    activation: Literal["relu", "abs", "none"] = "relu"
    centred: bool = True
    k_aux: int = 1
    aux_coefficient: float = 0.0
    aux_of: Literal["residual", "error"] = "residual"


@dataclass(frozen=True)
class Report:
    """What one batch showed. The gradients are in the parameters.

    Attributes:
        loss: mean squared error per token and column (1 is as bad as the mean, for standardised columns).
        threshold: the lowest score that survived; 0 if none did.
        fired: which latents survived for any token.
        n_active: survivors.
    """

    loss: float
    threshold: float
    fired: Bool[torch.Tensor, " latent"]
    n_active: int


class Autoencoder(nn.Module):
    """z = batch_topk(relu((x - b_dec) W_enc' + b_enc)), x^ = z W_dec + b_dec.

    W_enc is stored [latent, d_in] like W_dec: a latent's weights are one row. The loss is the squared error summed over
    columns, averaged over tokens, as in dictionary_learning and SAELens.
    """

    def __init__(
        self,
        centre: Float[torch.Tensor, " d_in"],
        n_latents: int,
        generator: torch.Generator,
        *,
        initial: Literal["unit", "kaiming"] = "unit",
    ) -> None:
        """Encoder and decoder begin tied.

        `kaiming` is the paper code's: uniform, with the fan-in that torch reads off an encoder of shape [d_in, latent],
        which is the number of latents.
        """
        super().__init__()
        shape = (n_latents, len(centre))
        if initial == "kaiming":
            directions = (2 * torch.rand(shape, generator=generator) - 1) * (6 / n_latents) ** 0.5
        else:
            directions = torch.randn(shape, generator=generator)
            directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.b_dec = nn.Parameter(centre.clone())

    @property
    def n_latents(self) -> int:
        """Size of the dictionary."""
        return len(self.b_enc)

    @torch.no_grad()
    def decoder_norms(self) -> Float[torch.Tensor, " latent"]:
        """Norms of the decoder's rows."""
        return torch.linalg.vector_norm(self.W_dec, dim=1)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring the rows of W_dec back to norm 1."""
        self.W_dec.div_(self.decoder_norms().clamp_min(1e-12)[:, None])
