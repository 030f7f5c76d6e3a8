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
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from harness.activations.manifest import write_atomically
from harness.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
SIGNED = "signed-jumprelu"
"""Architecture of signed latents: SAELens refuses it, where as `jumprelu` it would drop every negative code."""
SAELENS_VERSION = "6.54.12"
"""The version whose layout this is; SAELens takes a file without one for an older format."""


@dataclass(frozen=True)
class Weights:
    """pre = (x - b_dec) W_enc + b_enc; z = pre where pre > threshold (signed: where |pre| > threshold), else 0;
    x^ = z W_dec + b_dec. Float32, raw units.

    Attributes:
        W_enc: [d_in, latent].
        W_dec: [latent, d_in].
        b_enc: [latent].
        b_dec: [d_in].
        threshold: [latent], 0 or more.
        signed: whether a latent is active in both directions.
        metadata: JSON-able; `columns`, `k`, `learner` where they are known.
    """

    W_enc: Float[torch.Tensor, "d_in latent"]
    W_dec: Float[torch.Tensor, "latent d_in"]
    b_enc: Float[torch.Tensor, " latent"]
    b_dec: Float[torch.Tensor, " d_in"]
    threshold: Float[torch.Tensor, " latent"]
    signed: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

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
        return {name: getattr(self, name).detach().float().contiguous() for name in NAMES}

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
    config = {
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
    write_atomically(folder / WEIGHTS, lambda stream: stream.write(save(tensors)))
    text = json.dumps(config, indent=1, sort_keys=True)
    write_atomically(folder / CONFIG, lambda stream: stream.write(text.encode()))


def read_config(folder: Path) -> dict[str, Any]:
    """A dictionary's `cfg.json`.

    Raises:
        DataError: it is missing or no JSON object.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no dictionary ({CONFIG}: {error}); fit it again") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder / CONFIG} is no JSON object; fit the dictionary again")
    return config


def load_weights(folder: Path) -> Weights:
    """A dictionary in this layout, or one that SAELens wrote (architectures `jumprelu` and `standard`).

    Raises:
        DataError: a file is missing or damaged, or it says what this layout cannot: another architecture, inputs that
            are normalised at run time, tensors whose shapes disagree.
    """
    config = read_config(folder)
    architecture = config.get("architecture", "standard")
    if architecture not in ("jumprelu", "standard", SIGNED):
        raise DataError(
            f"{folder}: architecture {architecture!r} has no fixed threshold, so a token's code could not be its own; "
            "taken are jumprelu and standard (SAELens' save_inference_model writes batchtopk as jumprelu)"
        )
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") not in ("none", None):
            raise DataError(f"{folder}: {key}={config[key]!r} depends on more than the weights; fold it in first")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {folder / WEIGHTS}: {error}; fit the dictionary again") from error
    if architecture == "standard" and "b_enc" in tensors:
        tensors.setdefault("threshold", torch.zeros_like(tensors["b_enc"]))
    metadata = config.get("metadata")
    weights = from_tensors(
        folder / WEIGHTS,
        tensors,
        signed=architecture == SIGNED,
        metadata=metadata if isinstance(metadata, dict) else {},
    )
    if config.get("apply_b_dec_to_input", True):
        return weights
    return replace(weights, b_enc=weights.b_enc + weights.b_dec @ weights.W_enc)


def from_tensors(
    where: Path, tensors: dict[str, torch.Tensor], *, signed: bool = False, metadata: dict[str, Any] | None = None
) -> Weights:
    """Weights of named tensors, checked.

    Args:
        where: the file they are from, for messages.
        tensors: `NAMES`; others are ignored.
        signed: see `Weights`.
        metadata: see `Weights`.

    Raises:
        DataError: one is missing, not finite, or of the wrong shape.
    """
    missing = [name for name in NAMES if name not in tensors]
    if missing:
        raise DataError(f"{where} has no tensor {missing[0]!r}; fit the dictionary again")
    found = {name: tensors[name].float() for name in NAMES}
    d_in, n = found["W_enc"].shape if found["W_enc"].dim() == 2 else (-1, -1)
    wanted = {"W_enc": (d_in, n), "W_dec": (n, d_in), "b_enc": (n,), "b_dec": (d_in,), "threshold": (n,)}
    for name, tensor in found.items():
        if tuple(tensor.shape) != wanted[name]:
            raise DataError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, and W_enc is {tuple(found['W_enc'].shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{where}: {name} is not finite; fit the dictionary again")
    found["threshold"] = found["threshold"].clamp(min=0)  # below 0 it does what 0 does
    return Weights(**found, signed=signed, metadata=metadata or {})
