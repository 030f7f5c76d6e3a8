"""Against the real SAELens, dictionary_learning and sparsify, in an environment of their own: the same codes to 1e-5.

`make test-formats` builds the environment and runs this; elsewhere the tests are skipped, with that as the reason.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.formats import FORMATS, export, read
from harness.dictionaries.weights import load_weights, save_weights
from harness.testing import tiny_activations
from harness_plugins.dictionaries import abs_topk, baselines, batch_topk
from harness_plugins.dictionaries.files import open_codec

PEERS = os.environ.get("HARNESS_PEERS")
SCRIPT = Path(__file__).with_name("peer_codes.py")

pytestmark = [
    pytest.mark.skipif(PEERS is None, reason="needs SAELens, dictionary_learning and sparsify: make test-formats"),
    pytest.mark.timeout(600),
]


def peer(action: str, form: str, kind: str, folder: Path, x: torch.Tensor, scratch: Path) -> dict[str, torch.Tensor]:
    """Codes and reconstruction of x by the real library."""
    assert PEERS is not None
    save_file({"x": x}, scratch / "x.safetensors")
    command = [
        PEERS,
        "-P",
        str(SCRIPT),
        action,
        form,
        kind,
        str(folder),
        *(str(scratch / f"{n}.safetensors") for n in ("x", "out")),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(scratch / "out.safetensors")


def same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name in ("codes", "rebuilt"):
        assert float((mine[name] - theirs[name]).abs().max()) < 1e-5 * max(1.0, float(theirs[name].abs().max())), name
    assert torch.equal(mine["codes"] != 0, theirs["codes"] != 0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    rng = np.random.default_rng(0)
    scales = np.geomspace(0.1, 10, 8)
    documents = {f"d{i}": rng.laplace(size=(100, 8)) @ rng.normal(size=(8, 8)) * scales + 1 for i in range(20)}
    return open_set(tiny_activations(tmp_path_factory.mktemp("set"), documents))


LEARNERS: dict[str, Any] = {"batch-topk": batch_topk, "abs-topk": abs_topk, "pca": baselines}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_dictionary_fitted_here_has_the_same_codes_there(
    name: str, form: str, stored: StoredActivations, tmp_path: Path
) -> None:
    (offer,) = [r for r in LEARNERS[name].harness_dictionaries() if r.name == name]
    settings = {"steps": 100, "batch_size": 128} if name != "pca" else {}
    fitted = offer.implementation()(offer.config(k=2, **settings)).fit(
        stored.set, RunContext(out_dir=tmp_path / "fit", seed=0)
    )
    weights = load_weights(fitted.path)
    export(weights, tmp_path / "out", form)
    x = torch.from_numpy(np.array(stored.document("d3").values))
    codec = open_codec(weights.unsigned())
    z = codec.encode(x)
    assert 0 < int((z != 0).sum()) < z.numel() / 2
    same({"codes": z, "rebuilt": codec.decode(z)}, peer("open", form, "-", tmp_path / "out", x, tmp_path))


MADE = [
    *(
        ("saelens", k, "made")
        for k in ("batchtopk", "matryoshka_batchtopk", "standard", "raw-input", "jumprelu", "topk")
    ),
    *(("saelens", k, "made") for k in ("topk-rescaled", "abstopk", "gated", "gated-raw-input")),
    *(("saelens", k, "training") for k in ("batchtopk", "matryoshka_batchtopk")),
    *(("old-saelens", k, "made") for k in ("relu", "topk", "older")),
    *(("dictionary-learning", k, "made") for k in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder")),
    *(("dictionary-learning", k, "made") for k in ("BatchTopKSAE", "AutoEncoderTopK", "MatryoshkaBatchTopKSAE")),
    ("dictionary-learning", "JumpReluAutoEncoder", "made"),
    *(("sparsify", k, "made") for k in ("topk", "multi-topk")),
]


@pytest.mark.parametrize(("form", "kind", "name"), MADE)
def test_a_dictionary_made_there_has_the_same_codes_here(form: str, kind: str, name: str, tmp_path: Path) -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) * 2
    theirs = peer("make", form, kind, tmp_path / name, x, tmp_path)
    weights = read(tmp_path / name)
    codec = open_codec(weights)
    z = codec.encode(x)
    assert 0 < int((z != 0).sum()) < z.numel()
    same({"codes": z, "rebuilt": codec.decode(z)}, theirs)
    save_weights(tmp_path / "own", weights)
    assert torch.equal(open_codec(load_weights(tmp_path / "own")).encode(x), z)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["topk", "multi-topk"])
def test_a_top_k_dictionary_goes_on_to_other_tools(form: str, kind: str, tmp_path: Path) -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) * 2
    theirs = peer("make", "sparsify", kind, tmp_path / "made", x, tmp_path)
    export(read(tmp_path / "made"), tmp_path / "out", form)
    same(peer("open", form, "-", tmp_path / "out", x, tmp_path), theirs)


def test_saelens_refuses_signed_latents_rather_than_dropping_them(stored: StoredActivations, tmp_path: Path) -> None:
    assert PEERS is not None
    (offer,) = abs_topk.harness_dictionaries()
    learner = offer.implementation()(offer.config(k=2, steps=20, batch_size=128))
    fitted = learner.fit(stored.set, RunContext(out_dir=tmp_path, seed=0))
    code = "import sys; from sae_lens import SAE; SAE.load_from_disk(sys.argv[1], device='cpu')"
    done = subprocess.run([PEERS, "-P", "-c", code, str(fitted.path)], capture_output=True, text=True, timeout=500)
    assert done.returncode != 0
    assert "signed-jumprelu" in done.stderr
