"""Sae peers: a training step against dictionary_learning and SAELens at equal maths, weights, data and order.

Needs their environment: `make bench-peers`. Everything runs in one process of it, with its torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bench.measure import Ratio, compare
from bench.sae import N_DEAD, PATHS, STANDARD, D, F, K, batches_of
from harness_plugins.dictionaries.batch_topk.autoencoder import Autoencoder
from harness_plugins.dictionaries.batch_topk.descent import TrainStep

NEEDS = ("dictionary_learning", "sae_lens")
LR = 1e-3
ROUNDS = 4
_LONG_AGO = 10**13
"""Latents that are dead in a bench stay so in every step, whether they fire or not."""


@dataclass(frozen=True)
class Peer:
    """A rival's trainer.

    Attributes:
        name: library and version.
        decoder: which of our two decoders is its maths.
        step: one batch; returns the squared error summed over columns, mean over tokens (plus the auxiliary loss).
        copy_to: gives our autoencoder its weights.
    """

    name: str
    decoder: Any
    step: Callable[[torch.Tensor], float]
    copy_to: Callable[[Autoencoder], None]


def dictionary_learning(n_dead: int) -> Peer:
    """BatchTopKTrainer.update: unit-norm decoder, AuxK of rectified activations, norm clipped at 1."""
    from importlib.metadata import version

    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=100_000, activation_dim=D, dict_size=F, k=K, layer=0, lm_name="none", lr=LR, warmup_steps=0, seed=0,
        device="cpu", auxk_alpha=STANDARD.aux_coefficient,
    )  # fmt: skip
    trainer.dead_feature_threshold = 10**12
    steps = iter(range(1, 10**9))  # step 0 would move b_dec to the batch's median, after our copy

    def copy_to(sae: Autoencoder) -> None:
        ae = trainer.ae
        _copy(sae, ae.encoder.weight, ae.decoder.weight.T, ae.encoder.bias, ae.b_dec)

    def step(x: torch.Tensor) -> float:
        trainer.num_tokens_since_fired[:n_dead] = _LONG_AGO
        return float(trainer.update(next(steps), x))

    return Peer(f"dictionary_learning {version('dictionary-learning')}", "unit-norm", step, copy_to)


def sae_lens(n_dead: int, *, autocast: bool = False) -> Peer:
    """SAETrainer.step of a BatchTopK SAE: free decoder, ranked by what is written, norm clipped at 1."""
    from importlib.metadata import version

    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=K))
    config = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, total_training_samples=10**9, device="cpu",
        autocast=autocast, lr=LR, lr_end=LR, lr_scheduler_name="constant", lr_warm_up_steps=0, adam_beta1=0.9,
        adam_beta2=0.999, lr_decay_steps=0, n_restart_cycles=1, train_batch_size_samples=512,
        dead_feature_window=10**12, feature_sampling_window=10**9, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def copy_to(ours: Autoencoder) -> None:
        _copy(ours, sae.W_enc.T, sae.W_dec, sae.b_enc, sae.b_dec)

    name = f"SAELens {version('sae-lens')}" + (", autocast (other numerics)" if autocast else "")

    def step(x: torch.Tensor) -> float:
        trainer.n_forward_passes_since_fired[:n_dead] = _LONG_AGO
        return float(trainer.step(x).loss.item())

    return Peer(name, "norm-aware", step, copy_to)


@torch.no_grad()
def _copy(ours: Autoencoder, W_enc: Any, W_dec: Any, b_enc: Any, b_dec: Any) -> None:
    for mine, theirs in ((ours.W_enc, W_enc), (ours.W_dec, W_dec), (ours.b_enc, b_enc), (ours.b_dec, b_dec)):
        mine.copy_(theirs)


def _ours(peer: Peer, path: str, n_dead: int) -> Callable[[torch.Tensor], float]:
    sae = Autoencoder(torch.zeros(D), F, torch.Generator().manual_seed(1))
    peer.copy_to(sae)
    # Theirs weighs the auxiliary loss against the sum over columns, ours against their mean.
    maths = replace(STANDARD, decoder=peer.decoder, aux_coefficient=STANDARD.aux_coefficient / D)
    descent = TrainStep(sae, maths, compute=path)
    dead = torch.arange(F) < n_dead

    def step(x: torch.Tensor) -> float:
        report = descent.step(x, dead, LR)
        return report.loss * D

    return step


def _against(make: Callable[[int], Peer], path: str, size: int, n_dead: int = 0) -> Callable[[], Ratio]:
    def measure() -> Ratio:
        batches = batches_of(size, 4 if size < 4096 else 1)
        peer = make(n_dead)
        ours = _ours(peer, path, n_dead)
        gaps = []
        warm_steps = 20 if size < 4096 else 6  # as long as 48 of 512 tokens; the threshold has settled by then
        for i in range(warm_steps):
            x = batches[i % len(batches)]
            mine, theirs = ours(x), peer.step(x)
            gaps.append(abs(mine / theirs - 1))
        worst = float(np.max(gaps))  # NaN if any is, where Python's max would skip it
        note = "auxiliary loss active for both" if n_dead else f"losses agree to {worst:.0e} over {warm_steps} steps"
        what = f"step of {size} tokens, {path}" + (f", {n_dead} dead latents" if n_dead else "")

        def all_of(step: Callable[[torch.Tensor], float]) -> Callable[[], None]:
            return lambda: [step(x) for x in batches] and None

        return compare(what, peer.name, all_of(ours), all_of(peer.step), rounds=ROUNDS, note=note)

    return measure


def _autocast(n_dead: int) -> Peer:
    return sae_lens(n_dead, autocast=True)


_MAKERS = (dictionary_learning, sae_lens)
BENCHES = (
    *(_against(make, path, 512) for make in _MAKERS for path in PATHS),
    *(_against(make, path, 512, N_DEAD) for make in _MAKERS for path in PATHS),
    *(_against(make, path, 4096) for make in _MAKERS for path in PATHS),
    _against(_autocast, PATHS[-1], 512),
)
