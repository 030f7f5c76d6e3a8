"""The training loop of the paper's code, from its description: the rival where nothing installable is."""

from __future__ import annotations

import torch

from harness_plugins.dictionaries.batch_topk.autoencoder import Autoencoder, Objective
from harness_plugins.dictionaries.batch_topk.dense import DenseGradients

MATHS = Objective(
    k=16, decoder="norm-aware", activation="none", centred=False, k_aux=16, aux_coefficient=1 / 32, aux_of="error"
)


class PaperLoop:
    """Dense codes in autograd, Adam at a constant rate, FVU, tracker and `.item()` in every step, nothing clipped."""

    def __init__(self, d_in: int, n_latents: int, *, lr: float = 5e-4, dead_after_tokens: int = 1_000_000) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sae = Autoencoder(torch.zeros(d_in), n_latents, generator, initial="kaiming")
        self._gradients = DenseGradients(self.sae, MATHS)
        self._optimizer = torch.optim.Adam(self.sae.parameters(), lr=lr)
        self._since = torch.zeros(n_latents, dtype=torch.long)
        self._dead_after, self._lr, self._step = dead_after_tokens, lr, 0

    def step(self, x: torch.Tensor) -> float:
        """One batch; returns its FVU."""
        self._step += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * min(self._step / 100, 1.0)
        report = self._gradients(x, self._since >= self._dead_after)
        self._optimizer.step()
        self._since += len(x)
        self._since[report.fired] = 0
        total = (x - x.mean(0)).square().sum().item()
        return report.loss * x.numel() / total
