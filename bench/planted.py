"""Planted data: sums of known directions with noise, of the shape of an adapter's scalars (448 columns)."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class Planted:
    """A known sparse dictionary and endless tokens from it.

    10 to 20 of the directions are active in a token, each with coefficient 0.5 + Exp(0.5); how often a direction is
    active varies tenfold over directions. The noise is 5.6 % of the variance.

    Attributes:
        directions: [direction, d_in], rows of norm 1.
    """

    def __init__(self, n_directions: int = 2000, d_in: int = 448, *, seed: int = 0, noise: float = 0.05) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.directions = torch.nn.functional.normalize(torch.randn(n_directions, d_in, generator=generator))
        self.noise = noise
        self._weights = torch.exp(torch.rand(n_directions, generator=generator) * torch.log(torch.tensor(10.0)))

    def tokens(self, n: int, seed: int) -> torch.Tensor:
        """[token, d_in], float32; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(self._weights, n * 20, replacement=True, generator=generator).view(n, 20)
        sizes = 0.5 + torch.empty(n, 20).exponential_(2.0, generator=generator)
        active = torch.arange(20) < torch.randint(10, 21, (n, 1), generator=generator)
        clean = torch.nn.functional.embedding_bag(drawn, self.directions, mode="sum", per_sample_weights=sizes * active)
        return clean + self.noise * torch.randn(clean.shape, generator=generator)

    def batches(self, size: int, n: int, seed: int = 1) -> Iterator[torch.Tensor]:
        """`n` batches of tokens, each of its own seed."""
        return (self.tokens(size, seed * 1_000_003 + i) for i in range(n))

    def found(self, W_dec: torch.Tensor) -> float:
        """Mean over directions of the largest cosine to a decoder row: 1 is all of them found."""
        rows = torch.nn.functional.normalize(W_dec)
        return float((self.directions @ rows.T).amax(1).mean())
