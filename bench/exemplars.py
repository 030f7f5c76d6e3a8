"""Exemplars: the exact streaming top-64 against what else finds it."""

from __future__ import annotations

import numpy as np

from bench.measure import Ratio, compare
from harness.activations.exemplars import TopKTracker


def dense() -> Ratio:
    """Streaming top-64 of both polarities with a cap of 4 per document, against sorting the whole matrix."""
    rng = np.random.default_rng(0)
    documents = [rng.standard_normal((140, 28)).astype(np.float16) for _ in range(1000)]

    def ours() -> None:
        tracker = TopKTracker(28, signed=True, k=64, cap=4)
        for values in documents:
            tracker.add_document(values, np.ones(len(values), dtype=bool))

    def theirs() -> None:
        whole = np.concatenate(documents).astype(np.float32)
        for sign in (1, -1):
            np.argsort(-sign * whole, axis=0, kind="stable")[:64]

    return compare("exemplars, 140k tokens x 28 x 2", "numpy argsort (all in memory, no cap)", ours, theirs)


BENCHES = (dense,)
