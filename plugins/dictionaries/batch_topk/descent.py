"""One step of training: gradients by the path that suits the device, clipping, Adam, decoder rows back to norm 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..selection import Precision, best_precision
from .autoencoder import Autoencoder, Objective, Report
from .dense import DenseGradients
from .survivors import SurvivorGradients

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class TrainStep:
    """Trains an autoencoder in place, one batch at a time.

    Attributes:
        sae: the autoencoder.
        maths: what is computed.
        optimizer: fused Adam.
        path: `dense`, `fp32` or `bf16`.
    """

    def __init__(
        self,
        sae: Autoencoder,
        maths: Objective,
        *,
        compute: str = "auto",
        clip_norm: float | None = 1.0,
        beta2: float = 0.999,
        frozen_decoder: bool = False,
    ) -> None:
        self.sae, self.maths, self.clip_norm, self.frozen_decoder = sae, maths, clip_norm, frozen_decoder
        self.optimizer = torch.optim.Adam(sae.parameters(), betas=(0.9, beta2), fused=True)
        self.path = choose_path(compute, maths, sae.W_enc)
        self.gradients = (
            DenseGradients(sae, maths) if self.path == "dense" else SurvivorGradients(sae, maths, _precision(self.path))
        )

    def step(self, x: Float[torch.Tensor, "token d_in"], dead: Bool[torch.Tensor, " latent"], lr: float) -> Report:
        """One batch, in the units of training."""
        report = self.gradients(x, dead)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.frozen_decoder:
            gradient = self.sae.W_dec.grad
            assert gradient is not None
            gradient.zero_()  # Adam then leaves the rows as they are, and clipping counts the others
        self._clip()
        self.optimizer.step()
        if not self.frozen_decoder and self.maths.decoder == "unit-norm":
            self.sae.normalise_decoder()
        return report

    @torch.no_grad()
    def _clip(self) -> None:
        """Fused Adam divides gradients by `grad_scale` as it reads them: no pass over them to scale them."""
        if self.clip_norm is None:
            return
        gradients = []
        for name, parameter in self.sae.named_parameters():
            gradient = parameter.grad
            assert gradient is not None, name
            # Fused Adam walks raw memory: with other strides it would pair wrong entries without a word.
            assert gradient.stride() == parameter.stride(), name
            gradients.append(gradient)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        scale = (norm / self.clip_norm).clamp_min(1.0)
        self.optimizer.grad_scale = scale  # type: ignore[attr-defined]
        self.optimizer.found_inf = torch.zeros_like(scale)  # type: ignore[attr-defined]


def choose_path(compute: str, maths: Objective, weight: Float[torch.Tensor, "latent d_in"]) -> str:
    """`dense`, `fp32` or `bf16`: what `compute` asks for, or what suits device, processor, size and maths."""
    covered = maths.activation != "none" and maths.centred and maths.aux_of == "residual"
    if weight.device.type != "cpu" or not covered:
        return "dense"
    if compute == "auto":
        return best_precision(weight) if maths.activation == "relu" else "fp32"
    return compute


def _precision(path: str) -> Precision:
    return "bf16" if path == "bf16" else "fp32"
