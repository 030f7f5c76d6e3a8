"""The baselines' fits: directions each; then one threshold, and the decoder that least squares gives the codes.

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

from harness.activations.store import Moments, open_set
from harness.config import digest
from harness.contract.context import RunContext
from harness.contract.stages import DictionaryLearner
from harness.dictionaries.weights import Weights
from harness.errors import DataError
from harness.records import ActivationSet, Dictionary

from ..calibration import at_l0, sample_tokens, with_best_decoder
from ..checks import refuse_unusable
from ..files import CONFIG, in_raw_units, load_dictionary, read_config, save_dictionary
from ..sae import JumpRelu
from . import BasisConfig, IcaConfig, OvercompleteConfig

if TYPE_CHECKING:
    from jaxtyping import Float

_log = logging.getLogger(__name__)
_BATCH_TOKENS = 4096


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
            raw = sample_tokens(stored, train, self.config.tokens, run.seed)
            x = ((raw.double().numpy() - moments.mean) / scale).astype(np.float32)
            weights = in_raw_units(self._linear(self.directions(x, run.seed % 2**32), moments, scale), _float(scale))
            weights = with_best_decoder(at_l0(weights, raw, self.config.k), stored, train)
            metadata: dict[str, Any] = {
                "learner": self.name,
                "key": key,
                "config": self.config.model_dump(mode="json"),
                "columns": list(stored.columns),
                "k": self.config.k,
            }
            save_dictionary(folder, weights, metadata)
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

    def _linear(self, found: Directions, moments: Moments, scale: Float[np.ndarray, " d_in"]) -> Weights:
        """All codes, in scaled units; decoder rows of norm 1, so that codes compare by the size of what they write."""
        norms = np.linalg.norm(found.decoder, axis=1)
        n = len(norms)
        return Weights(
            W_enc=_float(found.encoder * norms),
            W_dec=_float(found.decoder / norms[:, None]),
            b_enc=torch.zeros(n),
            b_dec=_float(moments.mean / scale),
            threshold=torch.zeros(n),
            signed=self.signed,
        )


def _float(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


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
            self.n_latents(x.shape[1]), random_state=seed, batch_size=_BATCH_TOKENS, n_init=1, max_iter=20,
            reassignment_ratio=0.0,
        ).fit(unit)  # fmt: skip
        rows = fitted.cluster_centers_.astype(np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return Directions(rows.T, rows)
