"""Runs in the environment of the rivals (make peers): opens or writes a dictionary there, and saves its codes.

python peer_codes.py open saelens FOLDER IN.safetensors OUT.safetensors
python peer_codes.py make dictionary-learning FOLDER IN.safetensors OUT.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def open_saelens(folder: Path) -> torch.nn.Module:
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder), device="cpu")


def open_dictionary_learning(folder: Path) -> torch.nn.Module:
    from dictionary_learning.utils import load_dictionary

    return load_dictionary(str(folder), "cpu")[0]


def make_saelens(folder: Path, d_in: int) -> torch.nn.Module:
    """A batch-top-k SAE as SAELens trains it, saved for inference: it folds norms and writes JumpReLU."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=d_in, d_sae=24, k=3, dtype="float32", device="cpu"))
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn_like(sae.W_enc))
        sae.W_dec.copy_(torch.randn_like(sae.W_dec))
        sae.b_enc.copy_(torch.randn_like(sae.b_enc))
        sae.b_dec.copy_(torch.randn_like(sae.b_dec))
        sae.topk_threshold.fill_(0.7)
    folder.mkdir(parents=True)
    sae.save_inference_model(str(folder))
    return open_saelens(folder)


def make_dictionary_learning(folder: Path, d_in: int) -> torch.nn.Module:
    """A BatchTopKSAE with a calibrated threshold, saved as its trainer does."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE

    sae = BatchTopKSAE(d_in, 24, 3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
        sae.threshold.fill_(0.7)
    folder.mkdir(parents=True)
    torch.save(sae.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": "BatchTopKSAE", "activation_dim": d_in, "dict_size": 24, "k": 3}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return open_dictionary_learning(folder)


OPEN = {"saelens": open_saelens, "dictionary-learning": open_dictionary_learning}
MAKE = {"saelens": make_saelens, "dictionary-learning": make_dictionary_learning}


def main(action: str, form: str, folder: str, given: str, out: str) -> None:
    """See the module's docstring."""
    torch.manual_seed(0)
    x = load_file(given)["x"]
    path = Path(folder)
    sae = OPEN[form](path) if action == "open" else MAKE[form](path, x.shape[1])
    with torch.no_grad():
        codes = sae.encode(x)
        rebuilt = sae.decode(codes)
    save_file({"codes": codes.contiguous(), "rebuilt": rebuilt.contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
