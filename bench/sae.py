"""Sae: a training step and encoding at 448 columns, 3584 latents, k 16, against dense codes and the paper's loop."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.measure import Ratio, compare
from bench.paper_loop import PaperLoop
from bench.planted import Planted
from harness_plugins.dictionaries.batch_topk.autoencoder import Autoencoder, Objective
from harness_plugins.dictionaries.batch_topk.descent import TrainStep
from harness_plugins.dictionaries.sae import JumpRelu
from harness_plugins.dictionaries.selection import best_precision

D, F, K = 448, 3584, 16
STANDARD = Objective(k=K, k_aux=D // 2, aux_coefficient=1 / 32)
N_DEAD = 1500
WARM_STEPS = 20
"""Steps before anything is measured: the first have no threshold to guess from."""

PATHS = ("fp32", "bf16") if best_precision(torch.empty(F, D, device="meta")) == "bf16" else ("fp32",)
"""What is measured: the bfloat16 filter only on processors that multiply bfloat16; elsewhere it is never chosen."""


def training(path: str, batches: list[torch.Tensor], n_dead: int = 0) -> Callable[[], None]:
    """Steps over all batches, warm."""
    sae = Autoencoder(torch.zeros(D), F, torch.Generator().manual_seed(1))
    descent = TrainStep(sae, STANDARD, compute=path)
    dead = torch.arange(F) < n_dead

    def run() -> None:
        for x in batches:
            descent.step(x, dead, 1e-3)

    for _ in range(1 if path == "dense" else -(-WARM_STEPS // len(batches))):
        run()
    return run


def batches_of(size: int, n: int) -> list[torch.Tensor]:
    """Planted tokens."""
    return list(Planted().batches(size, n))


def _against_dense(path: str, size: int, n_dead: int = 0) -> Callable[[], Ratio]:
    def measure() -> Ratio:
        batches = batches_of(size, 4 if size < 4096 else 1)
        tokens = sum(map(len, batches))
        what = f"step of {size} tokens, {path}" + (f", {n_dead} dead latents" if n_dead else "")
        ours = training(path, batches, n_dead)
        return compare(what, "dense codes in autograd, same maths", ours, training("dense", batches, n_dead),
                       note=f"{tokens} tokens per round")  # fmt: skip

    return measure


def _against_paper(path: str) -> Callable[[], Ratio]:
    def measure() -> Ratio:
        batches = batches_of(512, 4)
        loop = PaperLoop(D, F)

        def theirs() -> None:
            for x in batches:
                loop.step(x)

        return compare(f"step of 512 tokens, {path}", "the paper's loop", training(path, batches), theirs)

    return measure


def _encoding() -> Ratio:
    sae = Autoencoder(torch.zeros(D), F, torch.Generator().manual_seed(1))
    x = Planted().tokens(8192, 5)
    pre = x @ sae.W_enc.T
    threshold = float(pre.detach().flatten().topk(K * len(x)).values.min())
    tensors = {"W_enc": sae.W_enc.T.contiguous(), "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    codec = JumpRelu({**{n: t.detach() for n, t in tensors.items()}, "threshold": torch.full((F,), threshold)})

    @torch.no_grad()
    def theirs() -> None:
        from scipy.sparse import csr_array

        for part in x.split(512):
            pre = (part - codec.b_dec) @ codec.W_enc + codec.b_enc
            csr_array((torch.relu(pre) * (pre > codec.threshold)).numpy())

    row = compare("encode_sparse, 8192 tokens", "dense codes, then scipy's CSR", lambda: codec.encode_sparse(x), theirs)
    return Ratio(**{**row.__dict__, "note": f"{len(x) / row.ours_s:,.0f} tokens/s"})


BENCHES = (
    *(_against_dense(path, 512) for path in PATHS),
    *(_against_dense(path, 4096) for path in PATHS),
    *(_against_dense(path, 512, N_DEAD) for path in PATHS),
    *(_against_paper(path) for path in PATHS),
    _encoding,
)
