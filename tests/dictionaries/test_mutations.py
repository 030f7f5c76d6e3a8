"""Mutated dictionary folders end in a dictionary or in one sentence, never in a library's exception."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.dictionaries.formats import export, read
from harness.dictionaries.weights import Weights
from harness.errors import DataError
from harness_plugins.dictionaries.files import open_codec
from tests.mutations import mutated

N_FOLDERS = 1_000
FIELDS = {
    "architecture": "gated", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "k": 3, "signed": True,
    "dict_class": "MatryoshkaBatchTopKSAE", "rescale_acts_by_decoder_norm": True, "finetuning_scaling_factor": True,
    "apply_b_dec_to_input": False, "normalize_activations": "layer_norm", "activation": "groupmax",
}  # fmt: skip


def good_folder(form: str, folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 9), (9, 5), (9,), (5,))
    w_enc, w_dec, b_enc, b_dec = (torch.randn(shape, generator=generator) for shape in shapes)
    if form == "sparsify":
        folder.mkdir()
        tensors = {"encoder.weight": w_enc.T.contiguous(), "encoder.bias": b_enc, "W_dec": w_dec, "b_dec": b_dec}
        save_file(tensors, folder / "sae.safetensors")
        (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 3, "d_in": 5, "num_latents": 9}))
        return folder
    export(Weights(w_enc, w_dec, b_enc, b_dec, torch.full((9,), 0.4), metadata={"k": 2}), folder, form)
    return folder


@pytest.mark.parametrize("form", ["saelens", "dictionary-learning", "sparsify"])
def test_mutated_dictionaries_end_in_a_sentence(form: str, tmp_path: Path) -> None:
    good, rng = good_folder(form, tmp_path / "good"), random.Random(form)
    x, sentences, n_opened = torch.randn(4, 5), set(), 0
    for _ in range(N_FOLDERS // 3):
        folder = mutated(good, tmp_path / "bad", rng, FIELDS)
        try:
            weights = read(folder)
        except DataError as error:
            sentences.add(str(error))
            continue
        n_opened += 1
        assert bool(open_codec(weights).encode(x).isfinite().all())
    assert not any("\n" in sentence for sentence in sentences)
    assert len({sentence.split(":")[-1][:40] for sentence in sentences}) > 10
    assert n_opened > 10
