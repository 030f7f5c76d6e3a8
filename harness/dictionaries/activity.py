"""Activity: how often and how strongly each latent is active, by a full pass over a set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array

from harness.activations.store import StoredActivations, StoredDocument
from harness.contract.codec import Codec

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CHUNK_TOKENS = 4096
"""Tokens encoded at once."""

BINS_PER_DECADE = 2
DECADES = 6
"""The histogram spans 10^-DECADES to 1 active tokens per token; what is rarer is in its first bin."""


@dataclass(frozen=True)
class Activity:
    """A full pass over the ranked tokens (as for exemplars).

    Attributes:
        n_active: [latent] tokens on which it is not 0.
        activation_sum: [latent] sum of |activation|.
        n_tokens: ranked tokens.
    """

    n_active: Int[np.ndarray, " latent"]
    activation_sum: Float[np.ndarray, " latent"]
    n_tokens: int

    @property
    def alive(self) -> np.ndarray:
        """Bool [latent]: active on at least one token."""
        alive: np.ndarray = self.n_active > 0
        return alive

    def most_active(self, n: int) -> list[int]:
        """The alive latents with the largest summed activation, at most `n`, largest first."""
        order = np.argsort(-self.activation_sum, kind="stable")[:n]
        return [int(i) for i in order if self.n_active[i] > 0]

    def histogram(self) -> tuple[int, ...]:
        """Alive latents per half decade of density: entry i is 10^(i/2 - 6) up to 10^((i+1)/2 - 6); the last has 1."""
        density = self.n_active[self.alive] / max(self.n_tokens, 1)
        n_bins = DECADES * BINS_PER_DECADE
        place = np.floor((np.log10(density) + DECADES) * BINS_PER_DECADE + 1e-9).astype(int)
        return tuple(np.bincount(place.clip(0, n_bins - 1), minlength=n_bins).tolist())


def activity(codec: Codec, stored: StoredActivations, n_latents: int) -> Activity:
    """Encode the whole set and count."""

    def codes() -> Iterator[csr_array]:
        for document in stored.documents():
            for x in chunks(document):
                yield codec.encode_sparse(x)

    return count(codes(), n_latents)


def activity_of_set(latents: StoredActivations) -> Activity:
    """Count in a stored set of codes (`encode_set`)."""
    return count((d.csr[d.ranked] for d in latents.documents()), len(latents.columns))


def count(codes: Iterable[csr_array], n_latents: int) -> Activity:
    """Count codes [token, latent] of ranked tokens."""
    n_active, total = np.zeros(n_latents, dtype=np.int64), np.zeros(n_latents)
    n_tokens = 0
    for z in codes:
        latents = z.indices[z.data != 0]
        n_active += np.bincount(latents, minlength=n_latents)
        total += np.bincount(z.indices, weights=np.abs(z.data), minlength=n_latents)
        n_tokens += z.shape[0]
    return Activity(n_active, total, n_tokens)


def chunks(document: StoredDocument) -> Iterator[Float[torch.Tensor, "token column"]]:
    """The activations of a document's ranked tokens in pieces, float32."""
    values = document.values[document.ranked]
    for start in range(0, len(values), CHUNK_TOKENS):
        yield torch.from_numpy(np.array(values[start : start + CHUNK_TOKENS])).float()
