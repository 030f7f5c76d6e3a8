"""Weights: a dictionary as tensors and a config, in one folder (`cfg.json`, `sae_weights.safetensors`).

The layout is SAELens' for inference, so an unsigned dictionary opens there as it is. Encode and decode take raw units:
what a learner divided the columns by is folded into the weights (with u = x / scale, (u - b) W = (x - b scale) (W /
scale), and the reconstruction is scaled back).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from harness.dictionaries.checks import checked, read_json, read_safetensors
from harness.dictionaries.saelens import SIGNED, computed
from harness.files import write_atomically

if TYPE_CHECKING:
    from jaxtyping import Float

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SHAPES = {"W_enc": "dn", "W_dec": "nd", "b_enc": "n", "b_dec": "d", "threshold": "n"}
"""The tensors, a letter per axis: `d` columns, `n` latents."""
SAELENS_VERSION = "6.54.12"
"""The version whose layout this is; SAELens takes a file without one for an older format."""


@dataclass(frozen=True)
class Weights:
    """pre = (x - b_dec) W_enc + b_enc; z = pre where pre > threshold (signed: where |pre| > threshold), else 0, and of
    these only the k largest of the token (signed: the k of largest magnitude) where k is given; x^ = z W_dec + b_dec.
    Float32, raw units.

    Attributes:
        W_enc: [d_in, latent].
        W_dec: [latent, d_in].
        b_enc: [latent].
        b_dec: [d_in].
        threshold: [latent], 0 or more.
        signed: whether a latent is active in both directions.
        metadata: JSON-able; `columns`, `k`, `learner` where they are known.
        k: how many latents a token has at most (TopK dictionaries); None is no limit.
    """

    W_enc: Float[torch.Tensor, "d_in latent"]
    W_dec: Float[torch.Tensor, "latent d_in"]
    b_enc: Float[torch.Tensor, " latent"]
    b_dec: Float[torch.Tensor, " d_in"]
    threshold: Float[torch.Tensor, " latent"]
    signed: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    k: int | None = None

    @property
    def d_in(self) -> int:
        """Columns."""
        return self.W_enc.shape[0]

    @property
    def n_latents(self) -> int:
        """Latents."""
        return self.W_enc.shape[1]

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name, float32 and contiguous."""
        return {name: getattr(self, name).detach().float().contiguous() for name in SHAPES}

    def unsigned(self) -> Weights:
        """The same function with latents that are never negative: latent i becomes 2i (positive) and 2i + 1 (negative).

        Codes are those of the signed latent's two polarities, so the reconstruction is the same.
        """
        if not self.signed:
            return self

        def both(tensor: torch.Tensor, dim: int, second: float) -> torch.Tensor:
            return torch.stack([tensor, second * tensor], dim=dim + 1).flatten(dim, dim + 1)

        return replace(
            self,
            W_enc=both(self.W_enc, 1, -1),
            W_dec=both(self.W_dec, 0, -1),
            b_enc=both(self.b_enc, 0, -1),
            threshold=both(self.threshold, 0, 1),
            signed=False,
            metadata={**self.metadata, "polarities_of_signed_latents": True},
        )


def save_weights(folder: Path, weights: Weights) -> None:
    """Write a dictionary; `cfg.json` comes last and marks it complete.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    tensors = weights.tensors()
    config: dict[str, Any] = {
        "architecture": SIGNED if weights.signed else "jumprelu",
        "d_in": weights.d_in,
        "d_sae": weights.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**weights.metadata, "sae_lens_version": SAELENS_VERSION},
    }
    if weights.k is not None:  # SAELens' top-k architectures have no threshold
        config |= {"architecture": "abstopk" if weights.signed else "topk", "k": weights.k}
        config["rescale_acts_by_decoder_norm"] = False
        del tensors["threshold"]
    write_atomically(folder / WEIGHTS, lambda stream: stream.write(save(tensors)))
    text = json.dumps(config, indent=1, sort_keys=True)
    write_atomically(folder / CONFIG, lambda stream: stream.write(text.encode()))


def read_config(folder: Path) -> dict[str, Any]:
    """A dictionary's `cfg.json`.

    Raises:
        DataError: it is missing or no JSON object.
    """
    return read_json(folder / CONFIG)


def load_weights(folder: Path) -> Weights:
    """A dictionary in this layout, or one that SAELens wrote.

    Raises:
        DataError: a file is missing or damaged, or it says what this layout cannot: another architecture, inputs that
            are normalised at run time, fields or tensors that are not known, shapes that disagree.
    """
    config = read_config(folder)
    file = folder / WEIGHTS
    tensors, signed, k = computed(folder / CONFIG, config, file, read_safetensors(file))
    metadata = config.get("metadata")
    return from_tensors(file, tensors, signed=signed, k=k, metadata=metadata if isinstance(metadata, dict) else {})


def from_tensors(
    where: Path,
    tensors: dict[str, torch.Tensor],
    *,
    signed: bool = False,
    k: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> Weights:
    """Weights of named tensors, checked.

    Args:
        where: the file they are from, for messages.
        tensors: those of `SHAPES`.
        signed: see `Weights`.
        k: see `Weights`.
        metadata: see `Weights`; `k` is the target, set from `k` where it is not known.

    Raises:
        DataError: one is missing, unknown, not finite, or of the wrong shape.
    """
    tensors = checked(where, tensors, SHAPES)
    tensors["threshold"] = tensors["threshold"].clamp(min=0)  # below 0 it does what 0 does
    metadata = dict(metadata or {})
    if k is not None:
        metadata.setdefault("k", k)
    return Weights(**tensors, signed=signed, k=k, metadata=metadata)
