"""Runs in the environment of the rivals (make peers): opens or writes a dictionary there, and saves its codes.

python peer_codes.py open saelens - FOLDER IN.safetensors OUT.safetensors
python peer_codes.py make dictionary-learning AutoEncoderTopK FOLDER IN.safetensors OUT.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def open_saelens(folder: Path) -> torch.nn.Module:
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder), device="cpu")


def open_dictionary_learning(folder: Path) -> torch.nn.Module:
    from dictionary_learning.utils import load_dictionary

    return load_dictionary(str(folder), "cpu")[0]


def open_sparsify(folder: Path) -> torch.nn.Module:
    from sparsify import SparseCoder

    return SparseCoder.load_from_disk(folder)


def randomise(sae: torch.nn.Module) -> None:
    """Every parameter drawn; what the class normalised no longer is."""
    with torch.no_grad():
        for name, parameter in sorted(sae.named_parameters()):
            parameter.copy_(torch.randn_like(parameter) * (0.3 if "mag" in name else 1))


def make_saelens(folder: Path, d_in: int, kind: str) -> torch.nn.Module:
    """A SAE as SAELens writes it: for inference a `batchtopk` becomes a `jumprelu` with norms folded."""
    import sae_lens
    from sae_lens.saes import abstopk_sae, gated_sae, jumprelu_sae, standard_sae, topk_sae

    common = {"d_in": d_in, "d_sae": 24, "dtype": "float32", "device": "cpu"}
    if kind in ("batchtopk", "matryoshka_batchtopk"):
        name = {"batchtopk": "BatchTopK", "matryoshka_batchtopk": "MatryoshkaBatchTopK"}[kind]
        widths = {"matryoshka_widths": [8, 24]} if kind.startswith("matryoshka") else {}
        config = getattr(sae_lens, f"{name}TrainingSAEConfig")(k=3, **widths, **common)
        sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
        randomise(sae)
        sae.topk_threshold.fill_(0.7)
        sae.save_inference_model(str(folder.with_name("inference")))
        if folder.name == "training":  # what SAELens cannot open for inference: its own conversion is the oracle
            sae.save_model(str(folder))
        else:
            folder.with_name("inference").rename(folder)
            return open_saelens(folder)
        return open_saelens(folder.with_name("inference"))
    module, name, settings = {
        "standard": (standard_sae, "StandardSAE", {}),
        "raw-input": (standard_sae, "StandardSAE", {"apply_b_dec_to_input": False}),
        "jumprelu": (jumprelu_sae, "JumpReLUSAE", {}),
        "topk": (topk_sae, "TopKSAE", {"k": 3}),
        "topk-rescaled": (topk_sae, "TopKSAE", {"k": 3, "rescale_acts_by_decoder_norm": True}),
        "abstopk": (abstopk_sae, "AbsTopKSAE", {"k": 3}),
        "gated": (gated_sae, "GatedSAE", {}),
        "gated-raw-input": (gated_sae, "GatedSAE", {"apply_b_dec_to_input": False}),
    }[kind]
    sae = getattr(module, name)(getattr(module, f"{name}Config")(**settings, **common))
    randomise(sae)
    sae.save_model(str(folder))
    return open_saelens(folder)


def make_old_saelens(folder: Path, d_in: int, kind: str) -> torch.nn.Module:
    """A SAE with the config that versions 3 to 5 wrote, as version 6 opens it."""
    make_saelens(folder, d_in, "standard")
    config = {
        "architecture": "standard", "d_in": d_in, "d_sae": 24, "dtype": "float32", "device": "cpu",
        "model_name": "m", "hook_name": "blocks.0.hook_resid_post", "hook_layer": 0, "hook_head_index": None,
        "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False, "sae_lens_training_version": "3.23.4", "prepend_bos": True,
        "dataset_path": "d", "dataset_trust_remote_code": True, "context_size": 128, "normalize_activations": "none",
        "neuronpedia_id": None, "model_from_pretrained_kwargs": {},
    }  # fmt: skip
    if kind == "topk":
        config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    elif kind == "older":
        config = {("activation_fn" if k == "activation_fn_str" else k): v for k, v in config.items()}
        config |= {"normalize_activations": False, "hook_point": config.pop("hook_name"), "lp_norm": 1.0}
        del config["architecture"]
    (folder / "cfg.json").write_text(json.dumps(config))
    return open_saelens(folder)


def make_dictionary_learning(folder: Path, d_in: int, kind: str) -> torch.nn.Module:
    """A dictionary of that class, with a calibrated threshold where it has one, saved as its trainer does."""
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    settings: dict[str, Any] = {"k": 3} if kind in ("BatchTopKSAE", "AutoEncoderTopK", "MatryoshkaBatchTopKSAE") else {}
    groups = {"group_sizes": [8, 16]} if kind == "MatryoshkaBatchTopKSAE" else {}
    modules = (dictionary, batch_top_k, top_k, matryoshka_batch_top_k)
    made = next(getattr(m, kind) for m in modules if hasattr(m, kind))(d_in, 24, **settings, **groups)
    randomise(made)
    if "threshold" in dict(made.named_buffers()):
        made.threshold.fill_(0.7)
    folder.mkdir(parents=True)
    torch.save(made.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": kind, "activation_dim": d_in, "dict_size": 24, "lr": 0.001, **settings}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return open_dictionary_learning(folder)


def make_sparsify(folder: Path, d_in: int, kind: str) -> torch.nn.Module:
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    sae = SparseCoder(d_in, SparseCoderConfig(num_latents=24, k=3, multi_topk=kind == "multi-topk"))
    randomise(sae)
    sae.save_to_disk(folder)
    return open_sparsify(folder)


def run(sae: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and reconstruction; sparsify gives the codes as values and indices."""
    codes = sae.encode(x)
    if isinstance(codes, torch.Tensor):
        return codes, sae.decode(codes)
    dense = torch.zeros(len(x), sae.num_latents).scatter_(1, codes.top_indices, codes.top_acts)
    return dense, sae.decode(codes.top_acts, codes.top_indices)


OPEN = {"saelens": open_saelens, "dictionary-learning": open_dictionary_learning, "sparsify": open_sparsify}
MAKE = {
    "saelens": make_saelens,
    "old-saelens": make_old_saelens,
    "dictionary-learning": make_dictionary_learning,
    "sparsify": make_sparsify,
}


def main(action: str, form: str, kind: str, folder: str, given: str, out: str) -> None:
    """See the module's docstring."""
    torch.manual_seed(0)
    x = load_file(given)["x"]
    path = Path(folder)
    sae = OPEN[form](path) if action == "open" else MAKE[form](path, x.shape[1], kind)
    with torch.no_grad():
        codes, rebuilt = run(sae, x)
    save_file({"codes": codes.contiguous(), "rebuilt": rebuilt.contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
