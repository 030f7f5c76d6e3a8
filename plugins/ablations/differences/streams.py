"""How a layer's residual stream differs between two models: size, directions, and what all tokens share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.stats import Estimate, ratio_over_documents

if TYPE_CHECKING:
    from jaxtyping import Float


def relative_norm(
    change: Float[torch.Tensor, "token hidden"], stream: Float[torch.Tensor, "token hidden"], documents: np.ndarray,
    seed: int,
) -> Estimate:  # fmt: skip
    """Sum of the changes' norms over the sum of the stream's, bootstrap-t over documents.

    Args:
        change: of each token.
        stream: what it is relative to.
        documents: each token's document, [token].
        seed: of the bootstrap.
    """
    top, bottom = (_by_document(x.norm(dim=-1), documents) for x in (change, stream))
    return ratio_over_documents(top, bottom, seed=seed)


def explained_shares(change: Float[torch.Tensor, "token hidden"], n: int) -> tuple[float, ...]:
    """Shares of the squared change in its first singular directions, the largest first; not centred.

    From the eigenvalues of the smaller Gram matrix, in float64: the squares of the singular values.
    """
    x = change.double()
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    total = float(squares.sum())
    return tuple((squares[:n] / total).tolist()) if total else ()


@dataclass(frozen=True)
class Common:
    """How much of a change all tokens share.

    Attributes:
        share: squared norm of the mean over the mean squared norm.
        swapped: its mean over all ways to exchange the two models in whole documents: the sum of the documents' squared
            sums over n^2, over the mean squared norm, because the signs of different documents cancel.
    """

    share: float
    swapped: float


def common(change: Float[torch.Tensor, "token hidden"], documents: np.ndarray) -> Common | None:
    """How much of the change all tokens share; None where nothing changes.

    Args:
        change: of each token.
        documents: each token's document, [token].
    """
    x = change.double()
    n, mean_square = len(x), float(x.square().sum(-1).mean()) if len(x) else 0.0
    if not mean_square:
        return None
    sums = torch.stack([x[torch.from_numpy(documents == d)].sum(0) for d in np.unique(documents)])
    squares = (float(sums.sum(0).square().sum()), float(sums.square().sum()))
    return Common(*(s / n**2 / mean_square for s in squares))


def mean_cosine(
    first: Float[torch.Tensor, "token hidden"], second: Float[torch.Tensor, "token hidden"], documents: np.ndarray,
    seed: int,
) -> Estimate:  # fmt: skip
    """Cosine of two changes on each token, mean over tokens, bootstrap-t over documents; 0 where one is 0.

    Args:
        first: of each token.
        second: of the same tokens.
        documents: each token's document, [token].
        seed: of the bootstrap.
    """
    cosines = torch.cosine_similarity(first.double(), second.double(), dim=-1)
    return ratio_over_documents(
        _by_document(cosines, documents), np.unique(documents, return_counts=True)[1], seed=seed
    )


def _by_document(values: Float[torch.Tensor, " token"], documents: np.ndarray) -> Sequence[float]:
    each = values.double().numpy()
    return [float(each[documents == d].sum()) for d in np.unique(documents)]
