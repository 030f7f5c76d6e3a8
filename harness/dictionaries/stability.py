"""Stability: whether two fits that differ by their seed find the same latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from harness.contract.codec import Codec

if TYPE_CHECKING:
    from jaxtyping import Float


def decoder_rows(codec: Codec, n_latents: int) -> Float[np.ndarray, "latent d_in"]:
    """What one unit of each latent adds to the reconstruction, in raw units. Any codec that decodes linearly."""
    with torch.no_grad():
        bias = codec.decode(torch.zeros(1, n_latents)).cpu()
        rows = codec.decode(torch.eye(n_latents)).cpu() - bias
    decoder: np.ndarray = rows.double().numpy()
    return decoder


def matched_cosines(
    first: Float[np.ndarray, "latent d_in"], second: Float[np.ndarray, "other d_in"], *, signed: bool
) -> Float[np.ndarray, " pair"]:
    """Cosines of the one-to-one matching of rows whose sum is largest (Hungarian algorithm).

    There are as many pairs as the smaller set has rows. Taking each row's best partner instead would count a latent
    several times where several rows resemble it.

    Args:
        first: decoder rows, columns in comparable units (divided by their standard deviation, say).
        second: the other fit's.
        signed: a direction and its opposite are the same latent.
    """
    cosine = _unit(first) @ _unit(second).T
    if signed:
        cosine = np.abs(cosine)
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    matched: np.ndarray = cosine[rows, columns]
    return matched


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return unit
