"""Divergence: KL in difference form, against the usual one: the price of not cancelling."""

from __future__ import annotations

import torch

from bench.measure import Ratio, compare
from harness.model.kl import kl_nats


def difference_form() -> Ratio:
    """KL of 512 positions of 4096 logits, against torch's kl_div of log_softmax."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(512, 4096, generator=generator) * 4 for _ in range(2))

    def theirs() -> torch.Tensor:
        log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
        return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)

    return compare("KL, 512 x 4096 logits", "torch kl_div of log_softmax", lambda: kl_nats(p, q), theirs)


BENCHES = (difference_form,)
