"""The units a dictionary is learnt in: u = (x - shift) / scale per column; what is written to disk takes raw x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.activations.store import Moments
from harness.dictionaries.weights import Weights
from harness.errors import UsageError

from ..files import in_raw_units

if TYPE_CHECKING:
    from jaxtyping import Float

    from .autoencoder import Autoencoder, Objective


@dataclass(frozen=True)
class InputScaling:
    """Per column, float32.

    Attributes:
        shift: subtracted first.
        scale: divided by then.
        centre: where b_dec begins: the columns' mean in these units.
    """

    shift: Float[torch.Tensor, " d_in"]
    scale: Float[torch.Tensor, " d_in"]
    centre: Float[torch.Tensor, " d_in"]

    @classmethod
    def of(
        cls, moments: Moments, standardise: str, write_norms: Float[np.ndarray, " d_in"] | None = None
    ) -> InputScaling:
        """The units that a setting asks for.

        Raises:
            UsageError: write-norm, and the activations do not say what their columns write.
        """
        mean, scale, shift = moments.mean, np.ones_like(moments.std), np.zeros_like(moments.mean)
        if standardise in ("scale", "zscore"):
            scale = moments.std
        if standardise == "zscore":
            shift = mean
        if standardise == "write-norm":
            if write_norms is None:
                raise UsageError(
                    "standardise=write-norm needs the norm of what each column writes, and these activations do not "
                    "say it; use standardise=scale, or probe an adapter's components again"
                )
            if not (write_norms > 0).all():
                raise UsageError(
                    f"standardise=write-norm: {int((write_norms <= 0).sum())} columns write nothing (norm 0), so they "
                    "have no size; use standardise=scale"
                )
            scale = 1 / write_norms
        parts = (torch.from_numpy(np.asarray(part)).float() for part in (shift, scale, (mean - shift) / scale))
        return cls(*parts)

    def apply(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token d_in"]:
        """Raw to these units, as a new tensor: what was given is not changed."""
        return (x - self.shift).div_(self.scale)


@dataclass(frozen=True)
class Fitted:
    """A trained autoencoder in the textbook form, columns divided by a scale and nothing else.

    Attributes:
        W_enc: [d_in, latent].
        W_dec: [latent, d_in], rows of norm 1 in the training units where they were ranked by what they write.
        b_enc: [latent].
        b_dec: [d_in].
    """

    W_enc: Float[torch.Tensor, "d_in latent"]
    W_dec: Float[torch.Tensor, "latent d_in"]
    b_enc: Float[torch.Tensor, " latent"]
    b_dec: Float[torch.Tensor, " d_in"]


@torch.no_grad()
def fitted(sae: Autoencoder, maths: Objective, units: InputScaling) -> Fitted:
    """Fold what inference need not know: decoder norms into the codes (one threshold then serves all latents), the
    missing centring into the encoder's bias, and the columns' shift into the decoder's.
    """
    W_enc, W_dec, b_enc, b_dec = (p.detach().cpu() for p in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec))
    if not maths.centred:
        b_enc = b_enc + W_enc @ b_dec
    if maths.decoder == "norm-aware":
        norms = torch.linalg.vector_norm(W_dec, dim=1).clamp_min(1e-12)
        W_enc, b_enc, W_dec = W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]
    return Fitted(W_enc.T.contiguous(), W_dec.contiguous(), b_enc.clone(), b_dec + units.shift / units.scale)


def fitted_weights(
    model: Fitted, scale: Float[torch.Tensor, " d_in"], threshold: float, *, signed: bool = False
) -> Weights:
    """A trained autoencoder in raw units.

    Args:
        model: trained in units of `scale`.
        scale: what each column was divided by.
        threshold: the fixed threshold, in those units.
        signed: whether codes are.
    """
    weights = Weights(
        W_enc=model.W_enc.detach(),
        W_dec=model.W_dec.detach(),
        b_enc=model.b_enc.detach(),
        b_dec=model.b_dec.detach(),
        threshold=torch.full_like(model.b_enc.detach(), threshold),
        signed=signed,
    )
    return in_raw_units(weights, scale)
