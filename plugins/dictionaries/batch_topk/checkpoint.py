"""The state of a training that can be interrupted: one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from harness.errors import DataError
from harness.files import reading, write_atomically

from .autoencoder import Autoencoder, Report

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class TrainingState:
    """What training knows beside weights and optimiser.

    Attributes:
        step: steps done.
        since_fired: [latent] tokens since it was last active.
        losses: (step, mean squared error).
        validation: (step, FVU, L0) on held-out tokens.
        threshold_mean: running mean of the batch threshold, not yet divided by its weight.
        threshold_weight: weight of what is in the mean; below 1 while it is young.
    """

    step: int
    since_fired: torch.Tensor
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float, float]] = field(default_factory=list)
    threshold_mean: float = 0.0
    threshold_weight: float = 0.0

    @classmethod
    def fresh(cls, n_latents: int, device: torch.device | None = None) -> TrainingState:
        """Before the first step."""
        return cls(step=0, since_fired=torch.zeros(n_latents, dtype=torch.long, device=device))

    @property
    def threshold(self) -> float:
        """The fixed threshold of inference, 0 or more; 0 before the first step."""
        return max(self.threshold_mean / self.threshold_weight, 0.0) if self.threshold_weight else 0.0

    def observe(self, report: Report, n_tokens: int, decay: float) -> None:
        """Take in one batch: who fired, and its threshold."""
        self.since_fired += n_tokens
        self.since_fired[report.fired] = 0
        self.threshold_mean = decay * self.threshold_mean + (1 - decay) * report.threshold
        self.threshold_weight = decay * self.threshold_weight + (1 - decay)


def save_state(path: Path, key: str, sae: Autoencoder, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything that the next step depends on.

    Raises:
        StorageError: the disk is full.
    """
    tensors = {"since_fired": state.since_fired}
    for name, parameter in sae.named_parameters():
        tensors[name] = parameter.detach().contiguous()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    rest = {
        "key": key,
        "step": state.step,
        "losses": state.losses,
        "validation": state.validation,
        "threshold": [state.threshold_mean, state.threshold_weight],
    }
    data = save(tensors, {"state": json.dumps(rest)})
    write_atomically(path, lambda stream: stream.write(data))


def load_state(path: Path, key: str, sae: Autoencoder, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Put a checkpoint into autoencoder and optimiser; None where there is none, or it is damaged or of another
    training.
    """
    if not path.is_file():
        return None
    try:
        with reading(path), safe_open(path, framework="pt") as file:
            rest = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            if rest["key"] != key:
                return None
            mean, weight = rest["threshold"]
            state = TrainingState(
                step=rest["step"],
                since_fired=tensors["since_fired"].to(sae.b_enc.device),
                losses=[(int(s), float(x)) for s, x in rest["losses"]],
                validation=[(int(s), float(x), float(y)) for s, x, y in rest["validation"]],
                threshold_mean=mean,
                threshold_weight=weight,
            )
    except DataError:
        return None
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(tensors[name])
            optimizer.state[parameter] = {
                moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS
            }
    return state
