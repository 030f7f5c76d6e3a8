"""sparsify's folders (EleutherAI; `cfg.json`, `sae.safetensors`): TopK autoencoders, as `Weights`.

Read from its `SparseCoder.encode`; before version 1 it was called `sae` and had signed codes as an option.
"""

from __future__ import annotations

from pathlib import Path

import torch

from harness.dictionaries.checks import checked, read_json, read_safetensors, refuse_unknown_fields, truth, whole_number
from harness.dictionaries.weights import CONFIG, Weights, from_tensors
from harness.errors import DataError

SPARSIFY_WEIGHTS = "sae.safetensors"

_SHAPES = {"encoder.weight": "nd", "encoder.bias": "n", "W_dec": "nd", "b_dec": "d"}
_READ = frozenset("activation k d_in num_latents expansion_factor signed skip_connection transcode".split())
_NEUTRAL = frozenset("normalize_decoder multi_topk".split())  # how it was trained


def read_sparsify(folder: Path) -> Weights:
    """A dictionary of sparsify.

    Raises:
        DataError: a file is missing or damaged, a field or tensor is not known, or it is no autoencoder.
    """
    file, weights = folder / CONFIG, folder / SPARSIFY_WEIGHTS
    config = read_json(file)
    refuse_unknown_fields(file, config, _READ | _NEUTRAL, "sparsify")
    if config.get("activation", "topk") != "topk":
        raise DataError(f"{file}: activation={config['activation']!r} is not known here; taken is topk")
    for option in ("skip_connection", "transcode"):
        if truth(file, option, config.get(option, False)):
            raise DataError(f"{file}: with {option} it is no autoencoder of its input; taken are autoencoders")
    t = checked(weights, read_safetensors(weights), _SHAPES)
    n, d = t["encoder.weight"].shape
    if config.get("d_in", d) != d or (config.get("num_latents") or n) != n:
        said = {name: config.get(name) for name in ("d_in", "num_latents")}
        raise DataError(f"{file}: {said}, and {weights.name} has {d} columns and {n} latents")
    k = whole_number(file, "k", config.get("k", 32), n)  # sparsify's default
    tensors = {"W_enc": t["encoder.weight"].T, "W_dec": t["W_dec"], "b_enc": t["encoder.bias"], "b_dec": t["b_dec"]}
    signed = truth(file, "signed", config.get("signed", False))
    metadata = {"learner": "sparsify"}
    return from_tensors(weights, tensors | {"threshold": torch.zeros(n)}, signed=signed, k=k, metadata=metadata)
