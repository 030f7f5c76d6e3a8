"""Exemplars: the exact streaming top-64 of both polarities against what else finds it.

The paper's tracker is written from its description, with its two errors put right: it must find the same contexts to be
compared. Documents of 2048 tokens, at most 4 contexts of each (the rivals have no such limit).
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bench.measure import Ratio, compare
from harness.activations.sparse import SparseRows
from harness.activations.topk import TopK, TopKTracker

K, CAP, DOCUMENT = 64, 4, 2048
N_DOCUMENTS, N_COLUMNS = 128, 448
N_LATENTS, L0 = 3584, 16


def dense_stream() -> list[np.ndarray]:
    """262 thousand tokens of 448 columns, half precision."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((DOCUMENT, N_COLUMNS), dtype=np.float32).astype(np.float16) for _ in range(N_DOCUMENTS)]


def sparse_stream() -> list[SparseRows]:
    """262 thousand tokens with 16 of 3584 latents each."""
    rng = np.random.default_rng(0)
    offsets, documents = np.arange(DOCUMENT + 1) * L0, []
    for _ in range(N_DOCUMENTS):
        step = N_LATENTS // L0
        columns = rng.integers(0, step, (DOCUMENT, L0)) + np.arange(L0) * step
        values = rng.exponential(size=DOCUMENT * L0).astype(np.float16) + np.float16(0.01)
        documents.append(SparseRows(offsets, columns.ravel().astype(np.int32), values, N_LATENTS))
    return documents


def track(documents: Sequence[np.ndarray | SparseRows], n: int, *, signed: bool, cap: int | None = CAP) -> TopK:
    """What the harness does."""
    tracker, ranked = TopKTracker(n, signed=signed, k=K, cap=cap), np.ones(DOCUMENT, dtype=bool)
    for values in documents:
        tracker.add_document(values, ranked)
    return tracker.result()


class PaperTracker:
    """One feature's sorted list; candidates above its minimum are put in one by one."""

    def __init__(self) -> None:
        self.values, self.places = np.full(K, -np.inf), np.full(K, -1)

    def update(self, values: np.ndarray, places: np.ndarray) -> None:
        """Take in one document's activations of this polarity."""
        likely = values > max(self.values[-1], 0.01)
        for value, place in zip(values[likely], places[likely], strict=True):
            if value > self.values[-1]:
                at = int(np.searchsorted(-self.values, -value))
                self.values[at + 1 :], self.places[at + 1 :] = self.values[at:-1].copy(), self.places[at:-1].copy()
                self.values[at], self.places[at] = value, place


def paper_dense(documents: Sequence[np.ndarray]) -> None:
    """The paper's pass over directions: every document, every feature, every polarity."""
    trackers = [[PaperTracker(), PaperTracker()] for _ in range(N_COLUMNS)]
    for d, values in enumerate(documents):
        whole = values.astype(np.float32)
        places = np.arange(d * DOCUMENT, (d + 1) * DOCUMENT)
        for column, (plus, minus) in enumerate(trackers):
            plus.update(whole[:, column], places)
            minus.update(-whole[:, column], places)


def paper_sparse(documents: Sequence[SparseRows]) -> None:
    """The paper's pass over latents: codes as a dense matrix, the active latents of a document one after the other."""
    trackers = [PaperTracker() for _ in range(N_LATENTS)]
    for d, rows in enumerate(documents):
        codes = rows.dense().astype(np.float32)
        for latent in np.flatnonzero((codes > 0).any(0)):
            active = np.flatnonzero(codes[:, latent])
            trackers[latent].update(codes[active, latent], active + d * DOCUMENT)


def torch_merge(documents: Sequence[np.ndarray]) -> None:
    """torch.topk per document, merged with what was found before."""
    for sign in (1, -1):
        best = torch.full((K, N_COLUMNS), -torch.inf)
        for values in documents:
            part = (sign * torch.from_numpy(values).float()).topk(K, dim=0).values
            best = torch.cat([best, part]).topk(K, dim=0).values


def peak_mb(function: Callable[[], object]) -> float:
    """Peak of what numpy allocates, in MB."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def equal_to_sorting(documents: Sequence[np.ndarray]) -> bool:
    """Values and places of 8 columns, against a stable sort of everything."""
    top = track([d[:, :8].copy() for d in documents], 8, signed=True, cap=None)
    whole = np.concatenate([d[:, :8] for d in documents]).astype(np.float32)
    signed = np.stack([whole, -whole], axis=2).reshape(len(whole), 16)
    order = np.argsort(-signed, axis=0, kind="stable")[:K]
    return bool((order.T == top.tokens).all() and (np.take_along_axis(signed, order, 0).T == top.values).all())


def dense() -> Ratio:
    """Against the paper's tracker."""
    documents = dense_stream()
    memory = peak_mb(lambda: track(documents, N_COLUMNS, signed=True))
    same = "equal to sorting" if equal_to_sorting(documents) else "NOT equal to sorting"
    found = compare(
        "262k tokens x 448 x 2, cap 4", "the paper's tracker", lambda: track(documents, N_COLUMNS, signed=True),
        lambda: paper_dense(documents), rounds=3,
    )  # fmt: skip
    rate = N_DOCUMENTS * DOCUMENT * N_COLUMNS / found.ours_s / 1e6
    return found.noting(f"{rate:.0f} M values/s, peak {memory:.0f} MB, {same}")


def dense_torch() -> Ratio:
    """Against torch."""
    documents = dense_stream()
    ours = lambda: track(documents, N_COLUMNS, signed=True)  # noqa: E731
    return compare(
        "the same", "torch.topk per document and merge (values only)", ours, lambda: torch_merge(documents), rounds=3
    )


def sparse() -> Ratio:
    """Against the paper's tracker."""
    documents = sparse_stream()
    memory = peak_mb(lambda: track(documents, N_LATENTS, signed=False))
    found = compare(
        "262k tokens x 16 of 3584 latents, cap 4", "the paper's tracker",
        lambda: track(documents, N_LATENTS, signed=False), lambda: paper_sparse(documents), rounds=3,
    )  # fmt: skip
    rate = N_DOCUMENTS * DOCUMENT * L0 / found.ours_s / 1e6
    return found.noting(f"{rate:.0f} M codes/s, peak {memory:.0f} MB")


BENCHES = (dense, dense_torch, sparse)
