"""BatchTopKLearner: fits the autoencoder on a set's training documents; goes on where it was stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.activations.store import Moments, StoredActivations, open_set
from harness.config import digest
from harness.errors import DataError, UsageError
from harness.records import ActivationSet, Dictionary
from harness.stages import RunContext

from .batch_topk import BatchTopKConfig
from .checkpoint import TrainingState, load_state, save_state
from .files import CONFIG, load_dictionary, read_config, save_dictionary
from .sae import BatchTopK, JumpRelu, Losses

if TYPE_CHECKING:
    from jaxtyping import Float

_LOGGED = 100
"""Points of the loss curve."""


class BatchTopKLearner:
    """Fits and opens batch-top-k dictionaries."""

    def __init__(self, config: BatchTopKConfig) -> None:
        self.config = config

    def fit(self, activations: ActivationSet, run: RunContext) -> Dictionary:
        """Fit on the training documents of the set (`StoredActivations.split`).

        Held-out documents are not looked at, not even for the columns' scale. Called again after an interruption it
        goes on from its last checkpoint and ends with the same bytes; called after it has finished it returns at once.

        Raises:
            DataError: a column is constant or not finite, or there are fewer tokens than latents.
            UsageError: k is larger than the number of latents.
        """
        stored = open_set(activations)
        n_latents = self.config.expansion * len(stored.columns)
        if self.config.k > n_latents:
            raise UsageError(
                f"batch-topk.k={self.config.k}: there are only {n_latents} latents ({self.config.expansion} x "
                f"{len(stored.columns)} columns); lower k or raise batch-topk.expansion"
            )
        train = stored.split().train
        folder = run.out_dir / "dictionary"
        key = digest([self.config.digest(), run.seed, list(train), [s.sha256 for s in stored.manifest.shards]])
        if not (folder / CONFIG).is_file() or read_config(folder)["metadata"].get("key") != key:
            moments = stored.moments(train)
            _refuse_unusable(stored, moments, n_latents)
            self._train(stored, train, moments, n_latents, folder, key, run)
        return self._record(stored, folder, n_latents)

    def load(self, dictionary: Dictionary) -> JumpRelu:
        """Open a fitted dictionary.

        Raises:
            DataError: its files are missing or damaged.
        """
        return load_dictionary(dictionary.path)

    def _record(self, stored: StoredActivations, folder: Path, n_latents: int) -> Dictionary:
        return Dictionary(
            name="batch-topk",
            path=folder,
            columns=stored.columns,
            n_latents=n_latents,
            k=self.config.k,
            losses=tuple((int(s), float(x)) for s, x in read_config(folder)["metadata"]["losses"]),
        )

    def _train(
        self,
        stored: StoredActivations,
        documents: tuple[str, ...],
        moments: Moments,
        n_latents: int,
        folder: Path,
        key: str,
        run: RunContext,
    ) -> None:
        config = self.config
        scale = torch.from_numpy(moments.std if config.standardise else np.ones_like(moments.std)).float()
        centre = torch.from_numpy(moments.mean).float() / scale
        model = BatchTopK(centre, n_latents, run.generator())
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        checkpoint = run.out_dir / "training.safetensors"
        state = load_state(checkpoint, key, model, optimizer) or TrainingState.fresh(n_latents)
        n_steps = self._n_steps(moments.n_tokens)
        run.progress.start(n_steps, "steps")
        run.progress.advance(state.step)
        for batch in _batches(stored, documents, config.batch_size, run.seed, state.step, n_steps):
            losses = self._step(model, optimizer, state, batch / scale, n_steps)
            state.observe(losses.codes, losses.threshold, config.threshold_decay)
            if state.step % max(n_steps // _LOGGED, 1) == 0 or state.step == n_steps - 1:
                state.losses.append((state.step, float(losses.reconstruction)))
            state.step += 1
            run.progress.advance()
            if state.step % config.checkpoint_steps == 0 and state.step < n_steps:
                save_state(checkpoint, key, model, optimizer, state)
        metadata: dict[str, Any] = {
            "learner": "batch-topk",
            "key": key,
            "config": config.model_dump(mode="json"),
            "columns": list(stored.columns),
            "losses": state.losses,
            "k": config.k,
        }
        save_dictionary(folder, model, scale, state.threshold, metadata)
        checkpoint.unlink(missing_ok=True)

    def _step(
        self,
        model: BatchTopK,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        x: Float[torch.Tensor, "token d_in"],
        n_steps: int,
    ) -> Losses:
        config = self.config
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(state.step, n_steps, config.warmup_steps)
        optimizer.zero_grad()
        losses = model.losses(
            x,
            k=config.k,
            dead=state.since_fired >= config.dead_after_tokens,
            k_aux=config.k_aux or max(x.shape[1] // 2, 1),
            aux_coefficient=config.aux_coefficient,
            guess=state.threshold / 2,
        )
        losses.total.backward()
        model.drop_parallel_gradient()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        model.normalise_decoder()
        return losses

    def _n_steps(self, n_tokens: int) -> int:
        if self.config.epochs is None:
            return self.config.steps
        return self.config.epochs * max(n_tokens // self.config.batch_size, 1)


def schedule(step: int, n_steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, flat, linear decay to 0 over the second half."""
    warmup = min(warmup_steps, n_steps // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, 2 * (n_steps - step) / n_steps)


def _batches(
    stored: StoredActivations, documents: tuple[str, ...], size: int, seed: int, start: int, stop: int
) -> Iterator[Float[torch.Tensor, "token d_in"]]:
    """Batches `start` to `stop` of endless epochs; an epoch's order depends on the seed and its number only.

    Short batches are dropped, unless the whole set is one.
    """
    per_epoch = max(stored.n_tokens(documents) // size, 1)
    for epoch in range(start // per_epoch, math.ceil(stop / per_epoch)):
        generator = torch.Generator().manual_seed(int(digest([seed, epoch])[:15], 16))
        for index, batch in enumerate(stored.batches(size, generator, documents)):
            step = epoch * per_epoch + index
            if index < per_epoch and start <= step < stop:
                yield batch


def _refuse_unusable(stored: StoredActivations, moments: Moments, n_latents: int) -> None:
    for what, bad in (("not finite", ~np.isfinite(moments.std)), ("constant", moments.std == 0)):
        names = [stored.columns[i] for i in np.flatnonzero(bad)]
        if names:
            listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise DataError(
                f"{stored.path}: {listed} {'is' if len(names) == 1 else 'are'} {what} over the training documents, so "
                "there is nothing to learn there; probe more documents, or store float32 if the values are tiny"
            )
    if moments.n_tokens < n_latents:
        raise DataError(
            f"{stored.path}: {moments.n_tokens} training tokens for {n_latents} latents; probe more documents or "
            "lower batch-topk.expansion"
        )
