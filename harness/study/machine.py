"""How long work takes on this machine: one measured matrix product, and a few constants fitted to measured runs.

The constants are fitted on the organism (width 64) and on SmolLM2-135M (width 576), one thread each (LOG.md, "Plans
that tell the time"). `python -m bench.estimates results.db` compares what they say of a finished run with what it took.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.study.sizes import EFFECTIVE_TFLOPS

EVEN_WIDTH = 576
"""Width at which norms, attention and activation functions take as long as the matrix products; they grow with the
width, products with its square."""
BATCHED_SHARE = 0.6
"""Of that element-wise work what is left where several documents are one batch, as in training."""
WRITTEN_SHARE = 0.6
"""Of the tokens that answers may have at their longest, those that are read and written."""
FIT_SHARE = 0.6
"""Of the products that fitting a dictionary densely takes: a CPU computes gradients of what survives only."""
EXEMPLAR_S = 0.009
"""To find and store the exemplars of a feature."""
INTERPRET_S = 0.0035
"""To read the exemplars of a feature and to judge it by rules; waiting for an LLM comes on top."""
STEP_S = 0.5
"""To begin a step: loading the model, opening files."""
UPDATE_S = 4e-9
"""AdamW's update of a weight."""
WRITTEN_BYTES_PER_S = 0.25e9
"""Of checkpoints, written, synced and hashed."""
PROCESS_BYTES = 0.7e9
"""What a process with torch and transformers has before it loads anything."""
_MEASURED_S = 0.2


@dataclass(frozen=True)
class Machine:
    """What steps run on.

    Attributes:
        flops_per_s: of one process, in matrix products.
        jobs: processes that do steps side by side.
        gpu: whether the products run on a GPU.
    """

    flops_per_s: float
    jobs: int = 1
    gpu: bool = False

    @classmethod
    def measured(cls, device: str, dtype: str, jobs: int) -> Machine:
        """Time matrix products of this device for a fifth of a second: the best one, as on a quiet machine."""
        if device == "cpu" and dtype == "float32":
            threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
            return cls(_core_flops_per_s() * max(1, threads // jobs), jobs)
        return cls(_torch_flops_per_s(device, dtype), jobs, gpu=device != "cpu")

    def seconds(self, cpu_flops: float, other_s: float, gpu_h: float) -> float:
        """Of a step.

        Args:
            cpu_flops: products, and what else passes over activations, counted in products.
            other_s: of what is no arithmetic on tensors.
            gpu_h: hours of one H200, as `sizes` reckons.
        """
        if self.gpu:
            return gpu_h * 3600 * EFFECTIVE_TFLOPS * 1e12 / self.flops_per_s + other_s
        return cpu_flops / self.flops_per_s + other_s


def cpu_flops(products: float, passes: float, width: float) -> float:
    """Work in units of matrix products.

    Args:
        products: FLOPs of matrix products.
        passes: FLOPs of those products that the element-wise work goes with: a weight's gradient needs none.
        width: of the activations.
    """
    return products + passes * EVEN_WIDTH / max(width, 1)


def _core_flops_per_s() -> float:
    """float32 on one core, without torch, whose import takes seconds."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    matrix = np.ones((256, 256), np.float32)
    with threadpool_limits(1):
        return _best(lambda: matrix @ matrix, 2 * 256**3)


def _torch_flops_per_s(device: str, dtype: str) -> float:
    import torch

    n = 256 if device == "cpu" else 4096
    matrix = torch.ones(n, n, dtype=getattr(torch, dtype), device=device)

    def product() -> None:
        matrix @ matrix
        if device != "cpu":
            torch.cuda.synchronize(device)

    return _best(product, 2 * n**3)


def _best(product: Callable[[], object], flops: float) -> float:
    product()  # the first one sets up libraries
    best, until = float("inf"), time.perf_counter() + _MEASURED_S
    while (began := time.perf_counter()) < until:
        product()
        best = min(best, time.perf_counter() - began)
    return flops / best
