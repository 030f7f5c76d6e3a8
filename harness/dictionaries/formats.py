"""Formats: dictionaries as other tools read and write them, with the same codes there and here.

`saelens` is a folder that `SAE.load_from_disk` opens; `dictionary-learning` one that `load_dictionary` opens. Signed
latents go out as their two polarities (`Weights.unsigned`): neither tool has codes that are negative and thresholded.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from harness.activations.manifest import write_atomically
from harness.dictionaries.weights import CONFIG, WEIGHTS, Weights, from_tensors, load_weights, save_weights
from harness.errors import DataError, UnknownName, UsageError

Format = Literal["saelens", "dictionary-learning"]
FORMATS: tuple[Format, ...] = get_args(Format)

_PICKLE, _TRAINER = "ae.pt", "config.json"


def export(weights: Weights, folder: Path, form: str) -> None:
    """Write a dictionary for another tool.

    Args:
        weights: what to write.
        folder: made if it is not there.
        form: one of `FORMATS`.

    Raises:
        UnknownName: no such format.
        UsageError: the folder holds something already.
        StorageError: the disk is full or the folder is not writable.
    """
    if form not in FORMATS:
        raise UnknownName("dictionary format", form, FORMATS)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a folder that does not exist yet")
    folder.mkdir(parents=True, exist_ok=True)
    if form == "saelens":
        save_weights(folder, weights.unsigned())
    else:
        _write_dictionary_learning(folder, weights.unsigned())


def read(folder: Path) -> Weights:
    """A dictionary in the harness's own layout, SAELens' or dictionary_learning's; which one, its files say.

    Nothing in the folder is executed: the pickle of dictionary_learning is read as tensors only.

    Raises:
        DataError: it is none of them, is damaged, or computes something that is not a thresholded linear encoder.
    """
    if (folder / CONFIG).is_file():
        return load_weights(folder)
    if (folder / _PICKLE).is_file():
        return _read_dictionary_learning(folder)
    raise DataError(
        f"{folder} holds no dictionary: neither {CONFIG} and {WEIGHTS} (SAELens, the harness) nor {_PICKLE} and "
        f"{_TRAINER} (dictionary_learning)"
    )


def _write_dictionary_learning(folder: Path, weights: Weights) -> None:
    """As BatchTopKSAE; where latents have thresholds of their own, as JumpReluAutoEncoder.

    JumpReluAutoEncoder never subtracts b_dec, so it is folded into b_enc.
    """
    tensors = weights.tensors()
    k = max(1, round(float(weights.metadata.get("k") or 1)))
    if bool((tensors["threshold"] == tensors["threshold"][0]).all()):
        name = "BatchTopKSAE"
        state = {
            "k": torch.tensor(k, dtype=torch.int),
            "threshold": tensors["threshold"][0].clone(),
            "encoder.weight": tensors["W_enc"].T.contiguous(),
            "encoder.bias": tensors["b_enc"],
            "decoder.weight": tensors["W_dec"].T.contiguous(),
            "b_dec": tensors["b_dec"],
        }
    else:
        name = "JumpReluAutoEncoder"
        state = {**tensors, "b_enc": tensors["b_enc"] - tensors["b_dec"] @ tensors["W_enc"]}
    trainer = {"dict_class": name, "activation_dim": weights.d_in, "dict_size": weights.n_latents, "k": k}
    text = json.dumps({"trainer": trainer, "metadata": weights.metadata}, indent=1, sort_keys=True)
    write_atomically(folder / _PICKLE, lambda stream: torch.save(state, stream))
    write_atomically(folder / _TRAINER, lambda stream: stream.write(text.encode()))


def _read_dictionary_learning(folder: Path) -> Weights:
    config, state = _trainer_config(folder), _state(folder)
    trainer: dict[str, Any] = config["trainer"] if isinstance(config.get("trainer"), dict) else {}
    name = trainer.get("dict_class")
    if name not in _READERS:
        raise DataError(
            f"{folder}: {name} is not a thresholded linear encoder, so a token's code could not be its own; taken are "
            + ", ".join(_READERS)
        )
    try:
        tensors = _READERS[name](state)
    except KeyError as error:
        raise DataError(f"{folder / _PICKLE} has no tensor {error.args[0]!r}: it is no {name}") from error
    metadata = dict(config["metadata"]) if isinstance(config.get("metadata"), dict) else {}
    metadata.setdefault("learner", f"dictionary_learning {name}")
    if isinstance(trainer.get("k"), int | float):
        metadata.setdefault("k", trainer["k"])
    weights = from_tensors(folder / _PICKLE, tensors, metadata=metadata)
    if name == "JumpReluAutoEncoder":  # it never subtracts b_dec
        return replace(weights, b_enc=weights.b_enc + weights.b_dec @ weights.W_enc)
    return weights


def _trainer_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / _TRAINER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot read {_TRAINER}: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder / _TRAINER} is no JSON object")
    return config


def _state(folder: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(folder / _PICKLE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"cannot read {folder / _PICKLE} as tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise DataError(f"{folder / _PICKLE} is no state dict of tensors")
    return state


def _linear(state: dict[str, torch.Tensor], bias: str) -> dict[str, torch.Tensor]:
    return {
        "W_enc": state["encoder.weight"].T,
        "W_dec": state["decoder.weight"].T,
        "b_enc": state["encoder.bias"],
        "b_dec": state[bias],
    }


def _batch_top_k(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # One that was never calibrated is -1: every positive activation is kept, as with 0.
    return {**_linear(state, "b_dec"), "threshold": state["threshold"].expand(len(state["encoder.bias"]))}


def _relu(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**_linear(state, "bias"), "threshold": torch.zeros_like(state["encoder.bias"])}


_READERS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": lambda state: {
        **{name: state[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")},
        "threshold": state["threshold"].expand(len(state["b_enc"])),
    },
    "JumpReluAutoEncoder": dict,
    "AutoEncoder": _relu,
}
