"""What each latent of a dictionary contributed, through its decoder over the components.

At a token the scalars are s = Σ_j z_j d_j + what the dictionary leaves out (its bias and its error). The contribution
of the scalars, s · ∂M/∂s', is linear in them, so latent j's is z_j (d_j · ∂M/∂s'): its own part of each component's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn.functional import one_hot

if TYPE_CHECKING:
    from harness.contract.codec import Codec

    from .gradients import Point

_UNITS_AT_ONCE = 1024
"""Unit codes that are decoded together."""


class Latents:
    """A dictionary of the adapter's scalars.

    Attributes:
        name: the dictionary's.
        codec: encodes the scalars.
        decoder: [latent, component], what a code of 1 adds to each scalar.
    """

    def __init__(self, name: str, codec: Codec, n_components: int) -> None:
        """Read the decoder off: it is affine, so it is what unit codes decode to, less what none does."""
        self.name, self.codec = name, codec
        n = codec.encode(torch.zeros(1, n_components)).shape[1]
        bias = codec.decode(torch.zeros(1, n))
        rows = [codec.decode(one_hot(of, n).float()) - bias for of in torch.arange(n).split(_UNITS_AT_ONCE)]
        self.decoder = torch.cat(rows).detach().cpu().double().numpy()


@dataclass
class LatentShares:
    """Contributions of a dictionary's latents, [row and token, latent], sparse, filled point by point."""

    dictionary: str
    n_tokens: int
    values: csr_array = field(repr=False)

    @classmethod
    def of(cls, latents: Latents, n_rows: int, n_tokens: int) -> LatentShares:
        """None yet."""
        return cls(latents.name, n_tokens, csr_array((n_rows * n_tokens, len(latents.decoder))))

    def add(self, latents: Latents, point: Point, weight: float) -> None:
        """Add what a gain gives."""
        scalars, gradient = (v.reshape(-1, v.shape[-1]).float().cpu() for v in (point.scalars, point.gradient))
        codes = latents.codec.encode_sparse(scalars).tocsr()
        tokens = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
        slopes = (gradient.double().numpy()[tokens] * latents.decoder[codes.indices]).sum(-1)
        made = csr_array((weight * codes.data * slopes, codes.indices, codes.indptr), shape=codes.shape)
        self.values = self.values + made

    def total(self, row: int) -> float:
        """Of all latents."""
        return float(self._row(row).sum())

    def largest(self, row: int, n: int) -> dict[str, float]:
        """The n latents that contributed most, over all tokens."""
        totals = np.asarray(self._row(row).sum(0)).ravel()
        order = np.argsort(-np.abs(totals), kind="stable")[:n]
        return {f"latent{i}": float(totals[i]) for i in order.tolist() if totals[i]}

    def sources(self, row: int, n: int) -> list[tuple[str, str, int, float]]:
        """The n largest contributions of a latent at one token."""
        one = self._row(row).tocoo()
        order = np.argsort(-np.abs(one.data), kind="stable")[:n]
        return [(self.dictionary, f"latent{one.col[i]}", int(one.row[i]), float(one.data[i])) for i in order.tolist()]

    def _row(self, row: int) -> csr_array:
        return self.values[row * self.n_tokens : (row + 1) * self.n_tokens]
