"""What makes dictionaries comparable: the same L0 for all, and for baselines the decoder that suits their codes best.

Both look at training documents only. A threshold that is set by the held-out ones would be chosen by what judges it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.activations.store import StoredActivations
from harness.dictionaries.activity import chunks
from harness.dictionaries.weights import Weights

from .files import open_codec

if TYPE_CHECKING:
    from jaxtyping import Float

_CHUNK_TOKENS = 4096
_SMALLEST = 1e-9
"""Eigenvalues of the codes' (scaled) Gram matrix below this share of the largest are directions without data."""
CALIBRATION_TOKENS = 100_000
"""Training tokens that a threshold is set on: a random sample where there are more. The L0 of so many tokens is known
to a few tenths of a percent."""


def sample_tokens(
    stored: StoredActivations, documents: Collection[str], n_tokens: int, seed: int
) -> Float[torch.Tensor, "token d_in"]:
    """All ranked tokens of the documents, or a random sample of about `n_tokens`, in one pass; float32, raw units."""
    generator = np.random.default_rng(seed)
    chance = n_tokens / max(stored.n_ranked(documents), 1)
    parts = []
    for document in stored.documents(documents):
        values = np.asarray(document.values[document.ranked])
        parts.append(values if chance >= 1 else values[generator.random(len(values)) < chance])
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def at_l0(weights: Weights, x: Float[torch.Tensor, "token d_in"], k: float) -> Weights:
    """The same dictionary with the one threshold that leaves k codes per token, on average over these tokens."""
    kth = kth_largest(weights, x, round(k * len(x)))
    # The codec keeps what is above the threshold: the last code that is to survive must be above it.
    below = max(float(np.nextafter(np.float32(kth), np.float32(0))), 0.0)
    return replace(weights, threshold=torch.full((weights.n_latents,), below))


def kth_largest(weights: Weights, x: Float[torch.Tensor, "token d_in"], n: int) -> float:
    """The n-th largest |code| of all tokens; 0 where fewer are not 0. In memory: a chunk's codes and n numbers."""
    largest = torch.empty(0)
    for chunk in x.split(_CHUNK_TOKENS):
        pre = (chunk - weights.b_dec) @ weights.W_enc + weights.b_enc
        sizes = (pre.abs() if weights.signed else pre).flatten()
        largest = torch.cat([largest, sizes[sizes > 0]])
        if len(largest) > n:
            largest = torch.from_numpy(np.partition(largest.numpy(), len(largest) - n)[len(largest) - n :])
    return float(largest.min()) if len(largest) == n else 0.0


@torch.no_grad()
def with_best_decoder(weights: Weights, stored: StoredActivations, documents: Collection[str]) -> Weights:
    """The same codes with the decoder and bias that least squares gives them: argmin over W, b of |x - z W - b|².

    Columns are fitted apart, so the units of the columns do not matter. The normal equations are summed up in float64
    over a document's ranked tokens at a time, so that memory does not grow with the documents; they are solved in units
    of the codes' sizes, and where codes are (nearly) dependent by the solution of least norm, as `numpy.linalg.lstsq`.
    Latents without any code on these documents keep their rows.
    """
    codec, n = open_codec(weights), weights.n_latents
    gram, cross = np.zeros((n + 1, n + 1)), np.zeros((n + 1, weights.d_in))
    for document in stored.documents(documents):
        for x in chunks(document):
            z, values = codec.encode_sparse(x).astype(np.float64), (x - weights.b_dec).double().numpy()
            sums = np.asarray(z.sum(axis=0)).ravel()
            gram[:n, :n] += (z.T @ z).toarray()
            gram[:n, n] += sums
            gram[n, n] += len(x)
            cross[:n] += z.T @ values
            cross[n] += values.sum(axis=0)
    gram[n, :n] = gram[:n, n]
    solution = _least_norm(gram, cross)
    decoder = torch.from_numpy(solution[:n]).float()
    silent = torch.from_numpy(gram.diagonal()[:n] == 0)
    decoder[silent] = weights.W_dec[silent]
    # The codes stay: what the new bias takes off the input, the encoder's bias puts back.
    shift = torch.from_numpy(solution[n])
    b_enc = weights.b_enc + (shift @ weights.W_enc.double()).float()
    return replace(weights, W_dec=decoder, b_dec=(weights.b_dec.double() + shift).float(), b_enc=b_enc)


def _least_norm(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    size = np.sqrt(gram.diagonal())
    size[size == 0] = 1.0
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=values > _SMALLEST * values[-1])
    solution: np.ndarray = ((vectors * inverse) @ (vectors.T @ (cross / size[:, None]))) / size[:, None]
    return solution
