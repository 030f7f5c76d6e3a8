"""BatchTopKLearner: fits the autoencoder on a set's training documents; goes on where it was stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from harness.activations.store import Moments, Split, StoredActivations, open_set
from harness.config import digest
from harness.contract.context import RunContext
from harness.contract.stages import DictionaryLearner
from harness.dictionaries.weights import Weights
from harness.records import ActivationSet, Dictionary

from ..calibration import CALIBRATION_TOKENS, at_l0, sample_tokens
from ..checks import refuse_unusable
from ..files import (
    CONFIG,
    load_dictionary,
    open_codec,
    read_config,
    save_dictionary,
)
from ..sae import JumpRelu
from . import BatchTopKConfig
from .autoencoder import Autoencoder, Objective
from .checkpoint import TrainingState, load_state, save_state
from .descent import TrainStep
from .units import InputScaling, fitted, fitted_weights
from .validation import Validation

if TYPE_CHECKING:
    from jaxtyping import Float

_LOGGED = 100
"""Points of the loss curve."""
_VALIDATED = 10
"""Points of the validation curve."""


class BatchTopKLearner(DictionaryLearner):
    """Fits and opens batch-top-k dictionaries."""

    name: ClassVar[str] = "batch-topk"
    signed: ClassVar[bool] = False
    frozen_decoder: ClassVar[bool] = False

    def __init__(self, config: BatchTopKConfig) -> None:
        self.config = config

    def fit(self, activations: ActivationSet, run: RunContext) -> Dictionary:
        """Fit on the training documents of the set (`StoredActivations.split`).

        Held-out documents are not learnt from, not even for the columns' scale. Called again after an interruption it
        goes on from its last checkpoint and ends with the same bytes; called after it has finished it returns at once.

        Raises:
            DataError: a column is constant or not finite, or there are fewer tokens than latents.
            UsageError: k is larger than the number of latents, or the columns' write norms are asked for and unknown.
        """
        stored = open_set(activations)
        n_latents = self.config.expansion * len(stored.columns)
        split = stored.split()
        folder = run.out_dir / "dictionary"
        key = digest([self.config.digest(), run.seed, list(split.train), [s.sha256 for s in stored.manifest.shards]])
        if not (folder / CONFIG).is_file() or read_config(folder)["metadata"].get("key") != key:
            moments = stored.moments(split.train)
            refuse_unusable(stored, moments, learner=self.name, n_latents=n_latents, k=self.config.k)
            self._train(stored, split, moments, n_latents, folder, key, run)
        return self._record(stored, folder, n_latents)

    def load(self, dictionary: Dictionary) -> JumpRelu:
        """Open a fitted dictionary.

        Raises:
            DataError: its files are missing or damaged.
        """
        return load_dictionary(dictionary.path)

    def _record(self, stored: StoredActivations, folder: Path, n_latents: int) -> Dictionary:
        return Dictionary(
            name=self.name,
            path=folder,
            columns=stored.columns,
            n_latents=n_latents,
            k=self.config.k,
            signed=self.signed,
            losses=tuple((int(s), float(x)) for s, x in read_config(folder)["metadata"]["losses"]),
        )

    def _train(
        self,
        stored: StoredActivations,
        split: Split,
        moments: Moments,
        n_latents: int,
        folder: Path,
        key: str,
        run: RunContext,
    ) -> None:
        config = self.config
        units = InputScaling.of(moments, config.standardise, _write_norms(stored))
        sae = autoencoder(config, units.centre, n_latents, run.generator()).to(run.device)
        sums = maths(config, len(stored.columns), signed=self.signed)
        descent = TrainStep(sae, sums, compute=config.compute, clip_norm=config.clip_norm, beta2=config.adam_beta2,
                            frozen_decoder=self.frozen_decoder)  # fmt: skip
        checkpoint = run.out_dir / "training.safetensors"
        state = load_state(checkpoint, key, sae, descent.optimizer) or TrainingState.fresh(n_latents, sae.b_enc.device)
        validation = Validation.of(stored, split.held_out, config.validation_tokens)
        n_steps = self._n_steps(moments.n_tokens)
        run.progress.start(n_steps, "steps")
        run.progress.advance(state.step)
        for batch in _batches(stored, split.train, config.batch_size, run.seed, state.step, n_steps):
            dead = state.since_fired >= config.dead_after_tokens
            lr = config.peak_lr(n_latents) * schedule(state.step, n_steps, config.warmup_steps, config.schedule)
            report = descent.step(units.apply(batch).to(run.device), dead, lr)
            state.observe(report, len(batch), config.threshold_decay)
            if state.step % max(n_steps // _LOGGED, 1) == 0 or state.step == n_steps - 1:
                state.losses.append((state.step, report.loss))
            state.step += 1
            if validation is not None and (state.step % max(n_steps // _VALIDATED, 1) == 0 or state.step == n_steps):
                fvu, l0 = validation.measure(open_codec(self._weights(sae, descent, units, state)))
                state.validation.append((state.step, fvu, l0))
            run.progress.advance()
            if state.step % config.checkpoint_steps == 0 and state.step < n_steps:
                save_state(checkpoint, key, sae, descent.optimizer, state)
        tokens = sample_tokens(stored, split.train, CALIBRATION_TOKENS, run.seed)
        weights = at_l0(self._weights(sae, descent, units, state), tokens, config.k)
        if validation is not None:  # the last point is the dictionary that is written, at its own threshold
            state.validation[-1] = (state.step, *validation.measure(open_codec(weights)))
        metadata: dict[str, Any] = {
            "learner": self.name,
            "key": key,
            "config": config.model_dump(mode="json"),
            "columns": list(stored.columns),
            "losses": state.losses,
            "validation": [{"step": s, "fvu": fvu, "l0": l0} for s, fvu, l0 in state.validation],
            "validation_tokens": 0 if validation is None else validation.n_tokens,
            "n_dead": int((state.since_fired >= config.dead_after_tokens).sum()),
            "compute": descent.path,
            "k": config.k,
        }
        save_dictionary(folder, weights, metadata)
        checkpoint.unlink(missing_ok=True)

    def _weights(self, sae: Autoencoder, descent: TrainStep, units: InputScaling, state: TrainingState) -> Weights:
        """The dictionary as it is now, in raw units."""
        return fitted_weights(fitted(sae, descent.maths, units), units.scale, state.threshold, signed=self.signed)

    def _n_steps(self, n_tokens: int) -> int:
        if self.config.epochs is None:
            return self.config.steps
        return self.config.epochs * max(n_tokens // self.config.batch_size, 1)


def maths(config: BatchTopKConfig, d_in: int, *, signed: bool = False) -> Objective:
    """What a config asks to be computed."""
    paper = config.variant == "paper-code"
    return Objective(
        k=config.k,
        decoder=config.decoder,
        activation="abs" if signed else "none" if paper else "relu",
        centred=not paper,
        k_aux=config.k_aux or max(d_in // 2, 1),
        aux_coefficient=config.aux_coefficient,
        aux_of="error" if paper else "residual",
    )


def autoencoder(
    config: BatchTopKConfig, centre: Float[torch.Tensor, " d_in"], n_latents: int, generator: torch.Generator
) -> Autoencoder:
    """An autoencoder before its first step."""
    if config.variant == "paper-code":
        return Autoencoder(torch.zeros_like(centre), n_latents, generator, initial="kaiming")
    return Autoencoder(centre, n_latents, generator)


def schedule(step: int, n_steps: int, warmup_steps: int, kind: str = "decay") -> float:
    """Share of the peak learning rate: linear warm-up, then flat; `decay` falls linearly to 0 over the second half."""
    warmup = min(warmup_steps, n_steps // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1.0 if kind == "constant" else min(1.0, 2 * (n_steps - step) / n_steps)


def _batches(
    stored: StoredActivations, documents: tuple[str, ...], size: int, seed: int, start: int, stop: int
) -> Iterator[Float[torch.Tensor, "token d_in"]]:
    """Batches `start` to `stop` of endless epochs; an epoch's order depends on the seed and its number only.

    Short batches are dropped, unless the whole set is one.
    """
    per_epoch = max(stored.n_ranked(documents) // size, 1)
    for epoch in range(start // per_epoch, math.ceil(stop / per_epoch)):
        generator = torch.Generator().manual_seed(int(digest([seed, epoch])[:15], 16))
        for index, batch in enumerate(stored.batches(size, generator, documents)):
            step = epoch * per_epoch + index
            if index < per_epoch and start <= step < stop:
                yield batch


def _write_norms(stored: StoredActivations) -> Float[np.ndarray, " d_in"] | None:
    """Norm of what one unit of each stored column writes; None where the set does not say."""
    header = stored.manifest.header
    if header.write_norms is None:
        return None
    return np.array(header.write_norms) / np.array(header.scale or 1.0)
