"""A dictionary on disk: SAELens' inference layout, so that other tools open it (`cfg.json`, `sae_weights`).

The columns' scale is folded into the weights: with u = x / scale, (u - b) W = (x - b scale) (W / scale), and the
reconstruction is scaled back. Encode and decode therefore take raw units; the scale is kept in the metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from harness.activations.manifest import write_atomically
from harness.errors import DataError

from .sae import JumpRelu
from .units import Fitted

if TYPE_CHECKING:
    from jaxtyping import Float

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def save_dictionary(
    folder: Path,
    model: Fitted,
    scale: Float[torch.Tensor, " d_in"],
    threshold: float,
    metadata: dict[str, Any],
) -> None:
    """Write the dictionary; `cfg.json` comes last and marks it complete.

    Args:
        folder: where to.
        model: trained in units of `scale`.
        scale: what each column was divided by.
        threshold: the fixed threshold, in those units.
        metadata: kept under `metadata`; must be JSON-able.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    n_latents, d_in = model.W_dec.shape
    tensors = {
        "W_enc": (model.W_enc.detach() / scale[:, None]).contiguous(),
        "W_dec": (model.W_dec.detach() * scale).contiguous(),
        "b_enc": model.b_enc.detach().clone(),
        "b_dec": model.b_dec.detach() * scale,
        "threshold": torch.full((n_latents,), threshold),
    }
    config = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        # SAELens takes a file without this key for one of its older formats.
        "metadata": {"sae_lens_version": "6.54.12", "input_scale": scale.tolist(), **metadata},
    }
    write_atomically(folder / WEIGHTS, lambda stream: stream.write(save(tensors)))
    text = json.dumps(config, indent=1, sort_keys=True)
    write_atomically(folder / CONFIG, lambda stream: stream.write(text.encode()))


def read_config(folder: Path) -> dict[str, Any]:
    """A dictionary's `cfg.json`.

    Raises:
        DataError: it is missing or not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no dictionary ({CONFIG}: {error}); fit it again") from error
    return config


def load_dictionary(folder: Path) -> JumpRelu:
    """A dictionary, ready to encode raw units.

    Raises:
        DataError: a file is missing or damaged.
    """
    read_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {folder / WEIGHTS}: {error}; fit the dictionary again") from error
    missing = [name for name in _TENSORS if name not in tensors]
    if missing:
        raise DataError(f"{folder / WEIGHTS} has no tensor {missing[0]!r}; fit the dictionary again")
    return JumpRelu({name: tensors[name] for name in _TENSORS})
