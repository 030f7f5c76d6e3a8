"""Exemplars: the exact streaming top-64 of both polarities against what else finds it.

Documents of 2048 tokens, at most 4 contexts of each; the rivals have no such limit, and keep no sums and densities but
where it says so. The paper's trackers stand here as its code has them (they lose contexts: `recall`), and put right.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from bench.measure import Ratio, compare
from bench.paper_tracker import PaperTracker
from harness.activations.sparse import SparseRows
from harness.activations.topk import TopK, TopKTracker

K, CAP, DOCUMENT = 64, 4, 2048
N_DOCUMENTS, N_COLUMNS = 128, 448
N_LATENTS, L0 = 3584, 16
N_TOKENS = N_DOCUMENTS * DOCUMENT


@cache
def dense_stream(n_documents: int = N_DOCUMENTS) -> list[np.ndarray]:
    """Documents of 448 columns, half precision; 128 are 262 thousand tokens."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((DOCUMENT, N_COLUMNS), dtype=np.float32).astype(np.float16) for _ in range(n_documents)]


@cache
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


def papers(documents: Sequence[np.ndarray], *, corrected: bool, summing: bool) -> PaperTracker:
    """The paper's pass over directions."""
    tracker = PaperTracker(2 * N_COLUMNS, K, corrected=corrected, summing=summing)
    for d, values in enumerate(documents):
        tracker.add_directions(values, d * DOCUMENT)
    return tracker


def papers_codes(documents: Sequence[SparseRows], *, corrected: bool) -> PaperTracker:
    """The paper's pass over latents, whose codes it has densely."""
    tracker = PaperTracker(N_LATENTS, K, corrected=corrected)
    for d, rows in enumerate(documents):
        tracker.add_codes(rows.dense().astype(np.float32), d * DOCUMENT)
    return tracker


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


def sorted_as(top: TopK, columns: np.ndarray, n: int) -> str:
    """Whether the first n features' values and places are those of a stable sort of everything."""
    order = np.argsort(-columns[:, :n], axis=0, kind="stable")[:K]
    values = np.take_along_axis(columns, order, 0).T
    same = (order.T == top.tokens[:n]).all() and (values == top.values[:n]).all()
    return "equal to sorting" if same else "NOT equal to sorting"


def dense(*, corrected: bool = False, summing: bool = False, n_documents: int = N_DOCUMENTS, rounds: int = 5) -> Ratio:
    """Against the paper's tracker."""
    documents = dense_stream(n_documents)
    exact = track(documents, N_COLUMNS, signed=True, cap=None)
    some = np.concatenate([d[:, :8] for d in documents]).astype(np.float32)
    same = sorted_as(exact, np.stack([some, -some], axis=2).reshape(len(some), 16), 16)
    memory = peak_mb(lambda: track(documents, N_COLUMNS, signed=True))
    kept: list[PaperTracker] = []
    name = f"{len(some) // 1000}k tokens x 448 x 2, cap 4"
    state = ("put right" if corrected else "as it is") + summing * ", with sums and densities as ours has"
    found = compare(
        name, f"the paper's tracker, {state}",
        lambda: track(documents, N_COLUMNS, signed=True),
        lambda: kept.append(papers(documents, corrected=corrected, summing=summing)), rounds=rounds, warm=False,
    )  # fmt: skip
    rate, recall = len(some) * N_COLUMNS / found.ours_s / 1e6, kept[-1].recall(exact.tokens)
    return found.noting(f"{rate:.0f} M values/s, peak {memory:.0f} MB, {same}; rival's recall {recall:.3f}")


def dense_equal() -> Ratio:
    """Against a tracker that also keeps what ours keeps beside the contexts."""
    return dense(summing=True)


def dense_corrected() -> Ratio:
    """Against a tracker that finds the same contexts."""
    return dense(corrected=True)


def dense_longer() -> Ratio:
    """A million tokens: the rival spends less on insertions, which become rare."""
    return dense(n_documents=4 * N_DOCUMENTS, rounds=3)


def dense_torch() -> Ratio:
    """Against torch."""
    documents = dense_stream()
    ours = lambda: track(documents, N_COLUMNS, signed=True)  # noqa: E731
    return compare(
        "the same", "torch.topk per document and merge (values only)", ours, lambda: torch_merge(documents), rounds=3
    )


def sparse(*, corrected: bool = False) -> Ratio:
    """Against the paper's tracker of latents."""
    documents = sparse_stream()
    exact = track(documents, N_LATENTS, signed=False, cap=None)
    some = np.concatenate([d.dense()[:, :16] for d in documents]).astype(np.float32)
    same, memory = sorted_as(exact, some, 16), peak_mb(lambda: track(documents, N_LATENTS, signed=False))
    kept: list[PaperTracker] = []
    found = compare(
        "262k tokens x 16 of 3584 latents, cap 4", f"the paper's tracker, {'put right' if corrected else 'as it is'}",
        lambda: track(documents, N_LATENTS, signed=False),
        lambda: kept.append(papers_codes(documents, corrected=corrected)), rounds=5, warm=False,
    )  # fmt: skip
    rate, recall = N_TOKENS * L0 / found.ours_s / 1e6, kept[-1].recall(exact.tokens)
    return found.noting(f"{rate:.0f} M codes/s, peak {memory:.0f} MB, {same}; rival's recall {recall:.3f}")


def sparse_corrected() -> Ratio:
    """Against a tracker that finds the same contexts."""
    return sparse(corrected=True)


BENCHES = (dense, dense_equal, dense_corrected, dense_longer, dense_torch, sparse, sparse_corrected)
