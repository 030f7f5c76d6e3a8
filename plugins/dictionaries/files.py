"""A learner's dictionary on disk: the harness's layout (`harness.dictionaries.weights`), opened as a codec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.dictionaries.weights import CONFIG, Weights, load_weights, read_config, save_weights

from .sae import JumpRelu
from .signed import SignedJumpRelu

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "CONFIG",
    "in_raw_units",
    "load_dictionary",
    "open_codec",
    "read_config",
    "save_dictionary",
]


def save_dictionary(folder: Path, weights: Weights, metadata: dict[str, Any]) -> None:
    """Write a dictionary; `cfg.json` comes last and marks it complete.

    Args:
        folder: where to.
        weights: in raw units.
        metadata: added to the weights'; must be JSON-able.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    save_weights(folder, replace(weights, metadata={**weights.metadata, **metadata}))


def in_raw_units(weights: Weights, scale: Float[torch.Tensor, " d_in"]) -> Weights:
    """Weights that were fitted to columns divided by `scale`, folded so that they take raw columns."""
    return replace(
        weights,
        W_enc=weights.W_enc / scale[:, None],
        W_dec=weights.W_dec * scale,
        b_dec=weights.b_dec * scale,
        metadata={**weights.metadata, "input_scale": scale.tolist()},
    )


def load_dictionary(folder: Path) -> JumpRelu:
    """A dictionary, ready to encode raw units.

    Raises:
        DataError: a file is missing or damaged.
    """
    return open_codec(load_weights(folder))


def open_codec(weights: Weights) -> JumpRelu:
    """Weights, ready to encode raw units."""
    return (SignedJumpRelu if weights.signed else JumpRelu)(weights.tensors(), weights.k)
