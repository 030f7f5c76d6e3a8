"""What no dictionary can be fitted to, said before anything is fitted."""

from __future__ import annotations

import numpy as np

from harness.activations.store import Moments, StoredActivations
from harness.errors import DataError, UsageError

_NAMED = 5
"""Columns that a message names before it counts them."""


def refuse_unusable(stored: StoredActivations, moments: Moments, *, learner: str, n_latents: int, k: int) -> None:
    """Check a set against what is to be fitted to it.

    Args:
        stored: the set.
        moments: of its training documents.
        learner: whose settings the message names.
        n_latents: size of the dictionary.
        k: latents per token.

    Raises:
        UsageError: k is larger than the number of latents.
        DataError: a column is constant or not finite, or there are fewer tokens than latents.
    """
    if k > n_latents:
        raise UsageError(
            f"{learner}.k={k}: there are only {n_latents} latents on {len(stored.columns)} columns; lower {learner}.k"
        )
    for what, bad in (("not finite", ~np.isfinite(moments.std)), ("constant", moments.std == 0)):
        names = [stored.columns[i] for i in np.flatnonzero(bad)]
        if names:
            listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            raise DataError(
                f"{stored.path}: {listed} {'is' if len(names) == 1 else 'are'} {what} over the training documents, so "
                "there is nothing to learn there; probe more documents, or store float32 if the values are tiny"
            )
    if moments.n_tokens < n_latents:
        raise DataError(
            f"{stored.path}: {moments.n_tokens} training tokens for {n_latents} latents; probe more documents or fit "
            "a smaller dictionary"
        )
