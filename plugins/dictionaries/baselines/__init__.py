"""Baselines: what a learned dictionary has to beat at the same L0.

pca, ica and identity are bases: as many latents as columns, active in both directions. random-dictionary and k-means
are overcomplete and never negative, like batch-topk. None is trained for sparsity; all are made sparse alike: the
k x tokens largest codes of the training tokens survive (|code| where codes are signed, decoder rows having norm 1), and
the last of them is the fixed threshold, as for batch-topk. Then each gets the decoder and the bias that least squares
gives its codes on the training documents: a baseline is judged by its codes, not by a decoder that never saw them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from harness import Config, DictionaryLearner, Registration, hookimpl


class BasisConfig(Config):
    """Settings of a basis: as many latents as columns."""

    k: PositiveInt = 16
    """Latents per token, on average over the training tokens; at most the number of latents."""
    standardise: bool = True
    """Divide each column by its standard deviation first, as batch-topk does."""
    tokens: PositiveInt = 100_000
    """Training tokens that are looked at: a random sample where there are more."""


class IcaConfig(BasisConfig):
    """Settings of ica."""

    max_iterations: PositiveInt = 200
    """Iterations of FastICA; where it has not converged by then, what it has is used, and logged."""


class OvercompleteConfig(BasisConfig):
    """Settings of an overcomplete dictionary."""

    expansion: PositiveInt = 8
    """Latents per column."""


_OFFERED: tuple[tuple[str, type[Config], str, str], ...] = (
    ("pca", BasisConfig, "Pca", "principal components, sparse by a fixed threshold"),
    ("ica", IcaConfig, "Ica", "independent components (FastICA), sparse by a fixed threshold"),
    ("k-means", OvercompleteConfig, "KMeans", "directions of k-means centroids, sparse by a fixed threshold"),
    ("random-dictionary", OvercompleteConfig, "RandomDictionary", "random directions, sparse by a fixed threshold"),
    ("identity", BasisConfig, "Identity", "the columns themselves, sparse by a fixed threshold"),
)


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer the baselines."""
    return [
        Registration(
            name=name,
            config=config,
            load=f"harness_plugins.dictionaries.baselines.learners:{learner}",
            summary=f"baseline: {summary}",
            needs=("adapter-activations",),
            baseline=True,
            version="2",
        )
        for name, config, learner, summary in _OFFERED
    ]
