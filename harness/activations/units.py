"""Units: a set that was read raw, written again as (raw - shift) * scale, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array

from harness.activations.store import StoredActivations
from harness.activations.writer import ActivationWriter
from harness.contract.codec import Codec
from harness.contract.context import RunContext
from harness.records import ActivationSet

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Affine:
    """Per column: stored = (raw - shift) * scale."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]


def zscore(raw: StoredActivations) -> Affine:
    """What gives every column mean 0 and standard deviation 1 over the ranked tokens of all documents.

    Template, special and first tokens do not count: their activations can be a hundred times larger. A column that
    never varies becomes 0.
    """
    moments = raw.moments()
    varies = moments.std > 0
    scale = np.where(varies, 1 / np.where(varies, moments.std, 1), 0)
    return Affine(tuple(moments.mean.tolist()), tuple(scale.tolist()))


def rescale(raw: StoredActivations, writer: ActivationWriter, run: RunContext) -> ActivationSet:
    """Write a raw set in the writer's unit. Interrupted, it goes on after the last whole shard."""
    shift, scale = np.array(writer.header.shift), np.array(writer.header.scale)
    ids = set(raw.document_ids)
    left = raw.document_ids[writer.n_documents_done :]
    run.progress.start(len(left), "documents")
    for document in raw.documents(left):
        values = ((document.values - shift) * scale).astype(np.float32)
        writer.append(document.document(), values, split=f"{document.id}/part2" in ids)
        run.progress.advance()
    return writer.finish()


def in_raw_units(codec: Codec, stored: StoredActivations) -> Codec:
    """A codec of the set's stored values as one of the raw scalars: what is put in their place in the model."""
    header = stored.manifest.header
    if header.scale is None and header.shift is None:
        return codec
    n = len(header.columns)
    return _InRawUnits(codec, torch.tensor(header.shift or (0.0,) * n), torch.tensor(header.scale or (1.0,) * n))


@dataclass(frozen=True)
class _InRawUnits:
    """A codec of stored values, for the scalars themselves: stored = (raw - shift) * scale."""

    codec: Codec
    shift: torch.Tensor
    scale: torch.Tensor

    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token n_latents"]:
        return self.codec.encode((x - self.shift.to(x.device)) * self.scale.to(x.device))

    def encode_sparse(self, x: Float[torch.Tensor, "token d_in"]) -> csr_array:
        return self.codec.encode_sparse((x - self.shift.to(x.device)) * self.scale.to(x.device))

    def decode(self, z: Float[torch.Tensor, "token n_latents"]) -> Float[torch.Tensor, "token d_in"]:
        x = self.codec.decode(z)
        scale = self.scale.to(x.device)
        # A component of scale 0 writes nothing, whatever its scalar.
        return torch.where(scale == 0, 0, x / torch.where(scale == 0, 1, scale)) + self.shift.to(x.device)
