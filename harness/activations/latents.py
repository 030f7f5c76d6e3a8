"""Latents: a dictionary's codes as an activation set like any other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from harness.activations.store import StoredActivations, StoredDocument
from harness.activations.writer import ActivationWriter
from harness.contract.codec import Codec
from harness.contract.executors import Executor, LocalExecutor
from harness.contract.progress import Progress, SilentProgress
from harness.errors import DataError
from harness.records import ActivationSet, Dictionary

if TYPE_CHECKING:
    from jaxtyping import Float

_CHUNK_TOKENS = 4096
_BUNDLE_TOKENS = 16384


def encode_set(
    codec: Codec,
    stored: StoredActivations,
    path: Path,
    dictionary: Dictionary,
    *,
    dtype: str = "float16",
    executor: Executor | None = None,
) -> ActivationSet:
    """Encode a whole set, stored sparse; columns are `latent0`, `latent1`, ...

    Interrupted, it goes on at the last whole shard.

    Args:
        codec: the opened dictionary.
        stored: the set it was fitted on.
        path: folder of the new set.
        dictionary: names the new set.
        dtype: of the stored codes.
        executor: whose workers encode; None is this process.

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
        signed=dictionary.signed,
        site=f"codes of {dictionary.name} over {stored.set.source}",
        chat_hash=stored.set.chat_hash,
        dtype=dtype,
        shard_tokens=stored.manifest.header.shard_tokens,
        sparse=True,
    )
    left = stored.document_ids[writer.n_documents_done :]
    with (executor or LocalExecutor()).open(Encoder(codec, stored)) as workers:
        for ids, codes in workers.map(Encoder.encode, _bundles(stored, left), SilentProgress()):
            for document, rows in zip(ids, codes, strict=True):
                writer.append(stored.document(document).document(), rows)
    return writer.finish("latents")


@dataclass(frozen=True)
class Encoder:
    """What encodes documents where it can read them: a worker's tool.

    Attributes:
        codec: the opened dictionary.
        stored: the set it was fitted on.
    """

    codec: Codec
    stored: StoredActivations

    def encode(self, documents: Sequence[str], _: Progress) -> list[csr_array]:
        """The codes of each document, [token, latent]."""
        return [
            vstack([self.codec.encode_sparse(x) for x in _chunks(self.stored.document(d))], format="csr")
            for d in documents
        ]


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


def _bundles(stored: StoredActivations, documents: Iterable[str]) -> Iterator[list[str]]:
    """Ids of documents of some `_BUNDLE_TOKENS` together: one alone may be too little to be sent away."""
    bundle: list[str] = []
    n_tokens = 0
    for document in documents:
        bundle.append(document)
        n_tokens += stored.n_tokens([document])
        if n_tokens >= _BUNDLE_TOKENS:
            yield bundle
            bundle, n_tokens = [], 0
    if bundle:
        yield bundle


def _chunks(document: StoredDocument) -> Iterator[Float[torch.Tensor, "token column"]]:
    for start in range(0, len(document.ids), _CHUNK_TOKENS):
        yield torch.from_numpy(np.array(document.values[start : start + _CHUNK_TOKENS])).float()
