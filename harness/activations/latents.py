"""Latents: a dictionary's codes as an activation set like any other, and one score for all dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import vstack

from harness.activations.store import StoredActivations, StoredDocument
from harness.activations.writer import ActivationWriter
from harness.errors import DataError
from harness.model.splice import SpliceSums, splice_kl
from harness.model.subject import Subject
from harness.records import ActivationSet, Dictionary, DictionaryScore
from harness.stages import Codec, RunContext
from harness.stats import ratio_over_documents

if TYPE_CHECKING:
    from jaxtyping import Float

_CHUNK_TOKENS = 4096


@dataclass(frozen=True)
class Reconstruction:
    """Sums over held-out documents.

    Attributes:
        residual: [document] squared error summed over tokens and columns, in the columns' raw units.
        total: [document] squared distance from the held-out mean of each column.
        active: [document] active latents, summed over tokens.
        n_tokens: [document].
    """

    residual: Float[np.ndarray, " document"]
    total: Float[np.ndarray, " document"]
    active: Float[np.ndarray, " document"]
    n_tokens: np.ndarray


def encode_set(
    codec: Codec, stored: StoredActivations, path: Path, dictionary: Dictionary, *, dtype: str = "float16"
) -> ActivationSet:
    """Encode a whole set, stored sparse; columns are `latent0`, `latent1`, ...

    Interrupted, it goes on at the last whole shard.

    Args:
        codec: the opened dictionary.
        stored: the set it was fitted on.
        path: folder of the new set.
        dictionary: names the new set.
        dtype: of the stored codes.

    Raises:
        DataError: the dictionary was fitted on other columns.
        HarnessError: a code is NaN or does not fit the dtype.
    """
    refuse_other_columns(dictionary, stored)
    n = dictionary.n_latents
    writer = ActivationWriter(
        path,
        dictionary.name,
        tuple(f"latent{i}" for i in range(n)),
        layers=(None,) * n,
        projections=(None,) * n,
        signed=False,
        site=f"codes of {dictionary.name} over {stored.set.source}",
        chat_hash=stored.set.chat_hash,
        dtype=dtype,
        shard_tokens=stored.manifest.header.shard_tokens,
        sparse=True,
    )
    for document in stored.documents(stored.document_ids[writer.n_documents_done :]):
        codes = vstack([codec.encode_sparse(x) for x in _chunks(document)], format="csr")
        writer.append(document.document(), codes)
    return writer.finish("latents")


def score_dictionary(
    dictionary: Dictionary,
    codec: Codec,
    stored: StoredActivations,
    latents: StoredActivations,
    subject: Subject | None,
    run: RunContext,
    *,
    max_splice_documents: int = 64,
) -> DictionaryScore:
    """How good a dictionary is, measured alike for all.

    FVU, L0 and splice KL on held-out documents, latents alive on all. Held out are the
    documents of `stored.split()`, which learners must not train on.

    Args:
        dictionary: what is scored.
        codec: the dictionary, opened.
        stored: the set it was fitted on.
        latents: its codes of that set (`encode_set`).
        subject: the adapter the set was read from; None leaves the KLs out.
        run: seed of the bootstrap, and progress.
        max_splice_documents: held-out documents that are run through the model.

    Raises:
        DataError: the dictionary was fitted on other columns.
    """
    refuse_other_columns(dictionary, stored)
    ids = stored.split().held_out
    sums = reconstruction(codec, stored, ids)
    fvu = ratio_over_documents(sums.residual, sums.total, seed=run.seed)
    splice, reason = _splice(codec, stored, ids[:max_splice_documents], subject, run)
    recovered = None
    if splice is not None:
        if splice.kl_base_nats > 0:
            recovered = 1 - splice.kl_splice_nats / splice.kl_base_nats
        else:
            reason = "the adapter changes no prediction on these documents (KL to the base is 0)"
    return DictionaryScore(
        name=dictionary.name,
        n_latents=dictionary.n_latents,
        n_alive=count_alive(latents),
        k=dictionary.k,
        fvu=fvu.estimate,
        fvu_ci_low=fvu.low,
        fvu_ci_high=fvu.high,
        l0=float(sums.active.sum() / sums.n_tokens.sum()),
        n_tokens=int(sums.n_tokens.sum()),
        n_documents=len(ids),
        kl_base_nats=None if splice is None else splice.kl_base_nats,
        kl_splice_nats=None if splice is None else splice.kl_splice_nats,
        kl_recovered=recovered,
        reason=reason,
    )


@torch.no_grad()
def reconstruction(codec: Codec, stored: StoredActivations, documents: tuple[str, ...]) -> Reconstruction:
    """Residual and total sums of squares per document; their ratio of sums is the FVU.

    Raw units, all tokens: a column counts by its variance. The mean is that of these documents, per column.
    """
    mean = torch.from_numpy(stored.moments(documents).mean)
    rows: list[tuple[float, float, float, int]] = []
    for document in stored.documents(documents):
        residual = total = active = 0.0
        for x in _chunks(document):
            z = codec.encode(x)
            residual += float((x.double() - codec.decode(z).cpu().double()).square().sum())
            total += float((x.double() - mean).square().sum())
            active += float((z != 0).sum())
        rows.append((residual, total, active, len(document.ids)))
    table = np.array(rows, dtype=np.float64)
    return Reconstruction(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.int64))


def count_alive(latents: StoredActivations) -> int:
    """Latents active on at least one ranked token (no special tokens, no first tokens) of a full pass."""
    alive = np.zeros(len(latents.columns), dtype=bool)
    for document in latents.documents():
        alive[document.csr[document.ranked].indices] = True
    return int(alive.sum())


def refuse_other_columns(dictionary: Dictionary, stored: StoredActivations) -> None:
    """A dictionary encodes the columns it was fitted on, in their order, and nothing else.

    Raises:
        DataError: the set has other columns.
    """
    if dictionary.columns != stored.columns:
        other = next(
            (f"{a!r} for {b!r}" for a, b in zip(stored.columns, dictionary.columns, strict=False) if a != b),
            f"{len(stored.columns)} for {len(dictionary.columns)}",
        )
        raise DataError(f"{dictionary.name} was fitted on other columns than {stored.path} has ({other}); fit it again")


def _splice(
    codec: Codec, stored: StoredActivations, ids: tuple[str, ...], subject: Subject | None, run: RunContext
) -> tuple[SpliceSums | None, str | None]:
    if subject is None:
        return None, "no model was given"
    if tuple(c.name for c in subject.components) != stored.columns:
        return None, f"{stored.set.source} does not read the adapter's scalars, so they cannot be replaced"
    documents = [d.document() for d in stored.documents(ids)]
    return splice_kl(subject, documents, codec, run), None


def _chunks(document: StoredDocument) -> Iterator[Float[torch.Tensor, "token column"]]:
    for start in range(0, len(document.ids), _CHUNK_TOKENS):
        yield torch.from_numpy(np.array(document.values[start : start + _CHUNK_TOKENS])).float()
