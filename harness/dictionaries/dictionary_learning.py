"""dictionary_learning's folders (`ae.pt`, `config.json`): what its classes compute, as `Weights`.

Read from its classes' `encode`, as `load_dictionary` of version 0.1.0 opens them; tests hold the codes to its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from harness.dictionaries.checks import CURE, checked, read_json, refuse_unknown_fields, whole_number
from harness.dictionaries.saelens import gated_as_threshold
from harness.dictionaries.weights import Weights, from_tensors
from harness.errors import DataError
from harness.files import reading

PICKLE, TRAINER = "ae.pt", "config.json"

_Tensors = dict[str, torch.Tensor]
_LINEAR = {"encoder.weight": "nd", "encoder.bias": "n", "decoder.weight": "dn"}
_TOP_K = {**_LINEAR, "b_dec": "d", "threshold": ""}
_MATRICES = {"W_enc": "dn", "b_enc": "n", "W_dec": "nd", "b_dec": "d"}
_READ = frozenset("dict_class activation_dim dict_size k".split())
_NEUTRAL = frozenset(  # how it was trained; none of it is in the encoder
    """trainer_class lr steps auxk_alpha warmup_steps decay_start threshold_beta threshold_start_step top_k_aux seed
    device layer lm_name wandb_name submodule_name group_fractions group_weights group_sizes l1_penalty
    sparsity_warmup_steps resample_steps sparsity_function sparsity_penalty p_start p_end anneal_start
    anneal_end sparsity_queue_length n_sparsity_updates bandwidth target_l0 norm_factor""".split()
)


def read_dictionary_learning(folder: Path) -> Weights:
    """A dictionary of dictionary_learning. Its pickle is read as tensors only.

    Raises:
        DataError: a file is missing or damaged, or a class, field or tensor is not known; it is named.
    """
    config, state = read_json(folder / TRAINER), _state(folder / PICKLE)
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    name = trainer.get("dict_class")
    if not isinstance(name, str) or name not in _CLASSES:
        raise DataError(
            f"{folder}: {name} is not a linear encoder with thresholds or a top-k that is known here; taken are "
            + ", ".join(_CLASSES)
        )
    refuse_unknown_fields(folder / TRAINER, config, frozenset(("trainer", "buffer", "metadata")), "dictionary_learning")
    refuse_unknown_fields(folder / TRAINER, trainer, _READ | _NEUTRAL, "dictionary_learning")
    shapes, compute = _CLASSES[name]
    k, groups = state.pop("k", None), state.pop("group_sizes", None) if name == "MatryoshkaBatchTopKSAE" else None
    if name == "AutoEncoderTopK":
        state.setdefault("threshold", torch.tensor(0.0))  # encode does not use it, and older versions have none
    tensors = compute(checked(folder / PICKLE, state, shapes))
    d, n = tensors["W_enc"].shape
    if groups is not None and int(groups.sum()) != n:
        raise DataError(f"{folder / PICKLE}: group_sizes {groups.tolist()} do not add up to {n} latents")
    for field, size in (("activation_dim", d), ("dict_size", n)):
        if trainer.get(field, size) != size:
            raise DataError(f"{folder / TRAINER}: {field}={trainer[field]!r}, and {PICKLE} has {size}")
    metadata = dict(config["metadata"]) if isinstance(config.get("metadata"), dict) else {}
    metadata.setdefault("learner", f"dictionary_learning {name}")
    target = _target(folder, trainer.get("k"), k, n)
    if target is not None:
        metadata.setdefault("k", target)
    top_k = target if name == "AutoEncoderTopK" else None
    if name == "AutoEncoderTopK" and top_k is None:
        raise DataError(f"{folder}: an AutoEncoderTopK without a k")
    return from_tensors(folder / PICKLE, tensors, k=top_k, metadata=metadata)


def _target(folder: Path, configured: object, stored: torch.Tensor | None, n: int) -> int | None:
    """K as the config and the state say it; dictionary_learning refuses two that differ."""
    if stored is None or stored.numel() != 1:
        return None if configured is None else whole_number(folder / TRAINER, "k", configured, n)
    k = whole_number(folder / PICKLE, "k", stored.item(), n)
    if configured not in (None, k):
        raise DataError(f"{folder}: k={configured!r} in {TRAINER} and {k} in {PICKLE}")
    return k


def _state(file: Path) -> _Tensors:
    with reading(file, f"it is read as tensors alone; {CURE}"):
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise DataError(f"{file} is no state dict of tensors")
    return dict(state)


def _linear(state: _Tensors, b_dec: torch.Tensor) -> _Tensors:
    w_enc, w_dec = state["encoder.weight"].T, state["decoder.weight"].T
    return {"W_enc": w_enc, "W_dec": w_dec, "b_dec": b_dec}


def _auto_encoder(state: _Tensors) -> _Tensors:
    """`load_dictionary` moves the norms of the decoder into the codes, unless all are 1."""
    tensors = _linear(state, state["bias"]) | {"b_enc": state["encoder.bias"]}
    norms = tensors["W_dec"].norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms)):
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms
        tensors["W_dec"] = tensors["W_dec"] / norms[:, None]
    return tensors | {"threshold": torch.zeros_like(norms)}


def _auto_encoder_new(state: _Tensors) -> _Tensors:
    """It never subtracts the decoder's bias from its input."""
    tensors = _linear(state, state["decoder.bias"])
    b_enc = state["encoder.bias"] + tensors["b_dec"] @ tensors["W_enc"]
    return tensors | {"b_enc": b_enc, "threshold": torch.zeros_like(b_enc)}


def _gated(state: _Tensors) -> _Tensors:
    tensors = _linear(state, state["decoder_bias"])
    return tensors | gated_as_threshold(tensors["W_enc"], state["gate_bias"], state["mag_bias"], state["r_mag"])


def _top_k(state: _Tensors) -> _Tensors:
    """The threshold is of another way to encode, which is off unless asked for."""
    b_enc = state["encoder.bias"]
    return _linear(state, state["b_dec"]) | {"b_enc": b_enc, "threshold": torch.zeros_like(b_enc)}


def _batch_top_k(state: _Tensors) -> _Tensors:
    """One that was never calibrated is -1: every positive activation is kept, as with 0."""
    b_enc = state["encoder.bias"]
    return _linear(state, state["b_dec"]) | {"b_enc": b_enc, "threshold": state["threshold"].expand(len(b_enc))}


def _matryoshka(state: _Tensors) -> _Tensors:
    return state | {"threshold": state["threshold"].expand(len(state["b_enc"]))}


def _jump_relu(state: _Tensors) -> _Tensors:
    """It never subtracts b_dec from its input."""
    return state | {"b_enc": state["b_enc"] + state["b_dec"] @ state["W_enc"]}


_CLASSES: dict[str, tuple[dict[str, str], Callable[[_Tensors], _Tensors]]] = {
    "AutoEncoder": ({**_LINEAR, "bias": "d"}, _auto_encoder),
    "AutoEncoderNew": ({**_LINEAR, "decoder.bias": "d"}, _auto_encoder_new),
    "GatedAutoEncoder": (
        {"encoder.weight": "nd", "decoder.weight": "dn", "decoder_bias": "d"}
        | dict.fromkeys(("gate_bias", "mag_bias", "r_mag"), "n"),
        _gated,
    ),
    "AutoEncoderTopK": (_TOP_K, _top_k),
    "BatchTopKSAE": (_TOP_K, _batch_top_k),
    "MatryoshkaBatchTopKSAE": ({**_MATRICES, "threshold": ""}, _matryoshka),
    "JumpReluAutoEncoder": ({**_MATRICES, "threshold": "n"}, _jump_relu),
}
