"""Formats: dictionaries as other tools read and write them, with the same codes there and here.

`saelens` is a folder that `SAE.load_from_disk` opens; `dictionary-learning` one that `load_dictionary` opens. Signed
latents go out as their two polarities (`Weights.unsigned`): neither tool has codes that are negative and thresholded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

import torch

from harness.dictionaries.dictionary_learning import PICKLE, TRAINER, read_dictionary_learning
from harness.dictionaries.sparsify import SPARSIFY_WEIGHTS, read_sparsify
from harness.dictionaries.weights import CONFIG, WEIGHTS, Weights, load_weights, save_weights
from harness.errors import DataError, UnknownName, UsageError
from harness.files import write_atomically

Format = Literal["saelens", "dictionary-learning"]
FORMATS: tuple[Format, ...] = get_args(Format)


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
    """A dictionary in the harness's own layout, SAELens', sparsify's or dictionary_learning's; its files say which.

    Nothing in the folder is executed: the pickle of dictionary_learning is read as tensors only.

    Raises:
        DataError: it is none of them, is damaged, or computes something else than `Weights` (by name).
    """
    if (folder / CONFIG).is_file():
        if (folder / SPARSIFY_WEIGHTS).is_file() and not (folder / WEIGHTS).is_file():
            return read_sparsify(folder)
        return load_weights(folder)
    if (folder / PICKLE).is_file():
        return read_dictionary_learning(folder)
    raise DataError(
        f"{folder} holds no dictionary: neither {CONFIG} and {WEIGHTS} (SAELens, the harness) or {SPARSIFY_WEIGHTS} "
        f"(sparsify) nor {PICKLE} and {TRAINER} (dictionary_learning)"
    )


def _write_dictionary_learning(folder: Path, weights: Weights) -> None:
    """As AutoEncoderTopK where there is a k, else as BatchTopKSAE; as JumpReluAutoEncoder where latents differ.

    JumpReluAutoEncoder never subtracts b_dec, so it is folded into b_enc.
    """
    tensors = weights.tensors()
    k = weights.k or max(1, round(float(weights.metadata.get("k") or 1)))
    if bool((tensors["threshold"] == tensors["threshold"][0]).all()):
        name = "BatchTopKSAE" if weights.k is None else "AutoEncoderTopK"
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
    write_atomically(folder / PICKLE, lambda stream: torch.save(state, stream))
    write_atomically(folder / TRAINER, lambda stream: stream.write(text.encode()))
