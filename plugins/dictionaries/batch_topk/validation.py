"""The validation curve: how far training has come on tokens that it does not learn from. Nothing is chosen by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.activations.store import StoredActivations

from ..sae import JumpRelu

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Validation:
    """Held-out tokens, raw units.

    Attributes:
        x: the first ranked tokens of the held-out documents.
    """

    x: Float[torch.Tensor, "token d_in"]

    @classmethod
    def of(cls, stored: StoredActivations, documents: tuple[str, ...], n_tokens: int) -> Validation | None:
        """Up to `n_tokens` of the documents; None where that is 0."""
        parts: list[np.ndarray] = []
        for document in stored.documents(documents) if n_tokens else ():
            parts.append(np.asarray(document.values[document.ranked], dtype=np.float32))
            if sum(map(len, parts)) >= n_tokens:
                break
        return cls(torch.from_numpy(np.concatenate(parts)[:n_tokens])) if parts else None

    @property
    def n_tokens(self) -> int:
        """Tokens looked at."""
        return len(self.x)

    @torch.no_grad()
    def measure(self, codec: JumpRelu) -> tuple[float, float]:
        """FVU and L0 at the fixed threshold, raw units, as `score_dictionary` measures them on all held-out tokens."""
        codes = codec.encode_sparse(self.x)
        rebuilt = codes @ codec.W_dec.numpy() + codec.b_dec.numpy()
        residual = np.square(self.x.numpy() - rebuilt, dtype=np.float64).sum()
        total = np.square(self.x.numpy() - self.x.numpy().mean(0, dtype=np.float64)).sum()
        return float(residual / total), codes.nnz / self.n_tokens
