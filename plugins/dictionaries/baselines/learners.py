"""The baselines' fits: a linear encoder and decoder each, then one threshold and one gain for all of them.

What is published of them: PCA and ICA as dictionaries (Cunningham et al. 2023, arXiv:2309.08600, section 3), k-means
centroids as directions of a thresholded linear encoder (Coates & Ng 2012, Learning Feature Representations with
K-means).
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from harness.activations.store import Moments, StoredActivations, open_set
from harness.config import digest
from harness.contract.context import RunContext
from harness.contract.stages import DictionaryLearner
from harness.dictionaries.weights import Weights, save_weights
from harness.errors import DataError
from harness.records import ActivationSet, Dictionary

from ..checks import refuse_unusable
from ..files import CONFIG, in_raw_units, load_dictionary, read_config
from ..sae import JumpRelu
from . import BasisConfig, IcaConfig, OvercompleteConfig

if TYPE_CHECKING:
    from jaxtyping import Float

_log = logging.getLogger(__name__)
_CHUNK_TOKENS = 4096


@dataclass(frozen=True)
class Directions:
    """A linear dictionary of centred, scaled columns.

    Attributes:
        encoder: [d_in, latent].
        decoder: [latent, d_in]; any row norm.
    """

    encoder: Float[np.ndarray, "d_in latent"]
    decoder: Float[np.ndarray, "latent d_in"]


class DirectionLearner(DictionaryLearner, ABC):
    """Fits directions to a sample of the training tokens, then what makes their codes sparse."""

    name: ClassVar[str]
    signed: ClassVar[bool]

    def __init__(self, config: BasisConfig) -> None:
        self.config = config

    @abstractmethod
    def directions(self, x: Float[np.ndarray, "token d_in"], seed: int) -> Directions:
        """The directions, from centred and scaled tokens."""

    def n_latents(self, d_in: int) -> int:
        """Size of the dictionary of so many columns."""
        return d_in

    def fit(self, activations: ActivationSet, run: RunContext) -> Dictionary:
        """Fit on the training documents of the set; called after it has finished it returns at once.

        Raises:
            DataError: a column is constant or not finite, the columns are linearly dependent (ica), or there are fewer
                tokens than latents.
            UsageError: k is larger than the number of latents.
        """
        stored = open_set(activations)
        n_latents = self.n_latents(len(stored.columns))
        train = stored.split().train
        folder = run.out_dir / "dictionary"
        key = digest(
            [self.name, self.config.digest(), run.seed, list(train), [s.sha256 for s in stored.manifest.shards]]
        )
        if not (folder / CONFIG).is_file() or read_config(folder)["metadata"].get("key") != key:
            moments = stored.moments(train)
            refuse_unusable(stored, moments, learner=self.name, n_latents=n_latents, k=self.config.k)
            scale = moments.std if self.config.standardise else np.ones_like(moments.std)
            x = ((_sample(stored, train, moments, self.config.tokens, run.seed) - moments.mean) / scale).astype(
                np.float32
            )
            weights: dict[str, Any] = self._sparse(x, self.directions(x, run.seed % 2**32))
            metadata: dict[str, Any] = {
                "learner": self.name,
                "key": key,
                "config": self.config.model_dump(mode="json"),
                "columns": list(stored.columns),
                "k": self.config.k,
            }
            centred = Weights(**weights, b_dec=torch.from_numpy(moments.mean / scale).float(), signed=self.signed,
                              metadata=metadata)  # fmt: skip
            save_weights(folder, in_raw_units(centred, torch.from_numpy(scale).float()))
        return Dictionary(
            name=self.name,
            path=folder,
            columns=stored.columns,
            n_latents=n_latents,
            k=self.config.k,
            signed=self.signed,
        )

    def load(self, dictionary: Dictionary) -> JumpRelu:
        """Open a fitted dictionary.

        Raises:
            DataError: its files are missing or damaged.
        """
        return load_dictionary(dictionary.path)

    def _sparse(self, x: Float[np.ndarray, "token d_in"], found: Directions) -> dict[str, torch.Tensor]:
        """Decoder rows of norm 1, the threshold that leaves k codes per token, and the least-squares gain.

        The gain, one number, scales all codes: correlated directions that are active together overshoot.
        """
        norms = np.linalg.norm(found.decoder, axis=1)
        decoder = torch.from_numpy(found.decoder / norms[:, None]).float()
        encoder = torch.from_numpy(found.encoder * norms).float()
        tokens = torch.from_numpy(x)
        threshold = kth_largest(tokens, encoder, self.config.k * len(x), signed=self.signed)
        dot = square = 0.0
        for chunk in tokens.split(_CHUNK_TOKENS):
            z = _codes(chunk, encoder, signed=self.signed)
            rebuilt = (z * (z.abs() >= threshold)) @ decoder
            dot += float((chunk * rebuilt).sum(dtype=torch.float64))
            square += float(rebuilt.square().sum(dtype=torch.float64))
        gain = dot / square if square > 0 else 1.0
        n = len(decoder)
        # The codec keeps what is above the threshold: the last code that is to survive must be above it.
        below = float(np.nextafter(np.float32(threshold * gain), np.float32(0)))
        return {
            "W_enc": encoder * gain,
            "W_dec": decoder,
            "b_enc": torch.zeros(n),
            "threshold": torch.full((n,), max(below, 0.0)),
        }


class Pca(DirectionLearner):
    """Principal components of the scaled columns, signed."""

    name, signed = "pca", True

    def directions(self, x: Float[np.ndarray, "token d_in"], seed: int) -> Directions:
        """All of them, largest variance first."""
        from sklearn.decomposition import PCA

        components = PCA(svd_solver="covariance_eigh").fit(x).components_
        return Directions(components.T, components)


class Ica(DirectionLearner):
    """Independent components, signed: the non-orthogonal basis whose codes are least Gaussian."""

    name, signed = "ica", True
    config: IcaConfig

    def directions(self, x: Float[np.ndarray, "token d_in"], seed: int) -> Directions:
        """FastICA's unmixing and mixing matrices.

        Raises:
            DataError: the columns are linearly dependent.
        """
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        if np.linalg.matrix_rank(np.cov(x.T).reshape(x.shape[1], -1)) < x.shape[1]:
            raise DataError("ica: the columns are linearly dependent, so they have no unmixing; use pca")
        ica = FastICA(whiten="unit-variance", random_state=seed, max_iter=self.config.max_iterations)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ica.fit(x)
        if any(issubclass(w.category, ConvergenceWarning) for w in caught):
            _log.warning("ica: not converged after %d iterations (ica.max_iterations)", self.config.max_iterations)
        return Directions(ica.components_.T, ica.mixing_.T)


class Identity(DirectionLearner):
    """The columns themselves, signed: keeping the largest of them is what a latent has to improve on."""

    name, signed = "identity", True

    def directions(self, x: Float[np.ndarray, "token d_in"], seed: int) -> Directions:
        """One per column."""
        return Directions(np.eye(x.shape[1]), np.eye(x.shape[1]))


class _Overcomplete(DirectionLearner):
    config: OvercompleteConfig

    def n_latents(self, d_in: int) -> int:
        return self.config.expansion * d_in


class RandomDictionary(_Overcomplete):
    """Random directions, never negative: batch-topk before training."""

    name, signed = "random-dictionary", False

    def directions(self, x: Float[np.ndarray, "token d_in"], seed: int) -> Directions:
        """Gaussian, so uniform over the sphere."""
        rows = np.random.default_rng(seed).normal(size=(self.n_latents(x.shape[1]), x.shape[1]))
        return Directions(rows.T / np.linalg.norm(rows, axis=1), rows / np.linalg.norm(rows, axis=1)[:, None])


class KMeans(_Overcomplete):
    """Centroids of the tokens' directions, never negative."""

    name, signed = "k-means", False

    def directions(self, x: Float[np.ndarray, "token d_in"], seed: int) -> Directions:
        """Mini-batch k-means on tokens of norm 1."""
        from sklearn.cluster import MiniBatchKMeans

        norms = np.linalg.norm(x, axis=1, keepdims=True)
        unit = (x / np.maximum(norms, 1e-12))[norms[:, 0] > 0]
        fitted = MiniBatchKMeans(
            self.n_latents(x.shape[1]), random_state=seed, batch_size=_CHUNK_TOKENS, n_init=1, max_iter=20,
            reassignment_ratio=0.0,
        ).fit(unit)  # fmt: skip
        rows = fitted.cluster_centers_.astype(np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return Directions(rows.T, rows)


def kth_largest(
    x: Float[torch.Tensor, "token d_in"], encoder: Float[torch.Tensor, "d_in latent"], n: int, *, signed: bool
) -> float:
    """The n-th largest |code| of all tokens; 0 where fewer are not 0. In memory: a chunk's codes and n numbers."""
    largest = torch.empty(0)
    for chunk in x.split(_CHUNK_TOKENS):
        sizes = _codes(chunk, encoder, signed=signed).abs().flatten()
        largest = torch.cat([largest, sizes[sizes > 0]])
        if len(largest) > n:
            largest = torch.from_numpy(np.partition(largest.numpy(), len(largest) - n)[len(largest) - n :])
    return float(largest.min()) if len(largest) == n else 0.0


def _codes(x: torch.Tensor, encoder: torch.Tensor, *, signed: bool) -> torch.Tensor:
    pre = x @ encoder
    return pre if signed else pre.relu()


def _sample(
    stored: StoredActivations, documents: tuple[str, ...], moments: Moments, n_tokens: int, seed: int
) -> Float[np.ndarray, "token d_in"]:
    """All tokens of the documents, or a random sample of about `n_tokens`, in one pass."""
    generator = np.random.default_rng(seed)
    share = n_tokens / moments.n_tokens
    parts = []
    for document in stored.documents(documents):
        values = np.asarray(document.values)
        parts.append(values if share >= 1 else values[generator.random(len(values)) < share])
    return np.concatenate(parts).astype(np.float64)
