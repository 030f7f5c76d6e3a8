"""The state of a training that can be interrupted: one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from harness.activations.manifest import write_atomically

from .sae import BatchTopK

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class TrainingState:
    """What training knows beside weights and optimiser.

    Attributes:
        step: steps done.
        since_fired: [latent] tokens since it was last active.
        losses: (step, mean squared error).
        threshold_mean: running mean of the batch threshold, not yet divided by its weight.
        threshold_weight: weight of what is in the mean; below 1 while it is young.
    """

    step: int
    since_fired: torch.Tensor
    losses: list[tuple[int, float]] = field(default_factory=list)
    threshold_mean: float = 0.0
    threshold_weight: float = 0.0

    @classmethod
    def fresh(cls, n_latents: int) -> TrainingState:
        """Before the first step."""
        return cls(step=0, since_fired=torch.zeros(n_latents, dtype=torch.long))

    @property
    def threshold(self) -> float:
        """The fixed threshold of inference; 0 before the first step."""
        return self.threshold_mean / self.threshold_weight if self.threshold_weight else 0.0

    def observe(self, codes: torch.Tensor, threshold: float, decay: float) -> None:
        """Take in one batch's codes [token, latent] (who fired) and its threshold."""
        fired = codes.sum(0) > 0
        self.since_fired += len(codes)
        self.since_fired[fired] = 0
        self.threshold_mean = decay * self.threshold_mean + (1 - decay) * threshold
        self.threshold_weight = decay * self.threshold_weight + (1 - decay)


def save_state(path: Path, key: str, model: BatchTopK, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything that the next step depends on.

    Raises:
        StorageError: the disk is full.
    """
    tensors = {"since_fired": state.since_fired}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach().contiguous()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    rest = {
        "key": key,
        "step": state.step,
        "losses": state.losses,
        "threshold": [state.threshold_mean, state.threshold_weight],
    }
    data = save(tensors, {"state": json.dumps(rest)})
    write_atomically(path, lambda stream: stream.write(data))


def load_state(path: Path, key: str, model: BatchTopK, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Put a checkpoint into model and optimiser; None where there is none, or it is damaged or of another training."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            rest = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    if rest["key"] != key:
        return None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
            optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
    mean, weight = rest["threshold"]
    return TrainingState(
        step=rest["step"],
        since_fired=tensors["since_fired"],
        losses=[(int(s), float(x)) for s, x in rest["losses"]],
        threshold_mean=mean,
        threshold_weight=weight,
    )
