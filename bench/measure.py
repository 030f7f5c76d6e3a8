"""What all benches share: interleaved rounds, their ratio, and the machine they ran on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROUNDS = 5
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Ratio:
    """One comparison.

    Attributes:
        name: what is measured, with its size.
        rival: against what.
        ours_s: our median time, seconds.
        rival_s: the rival's.
        ratio: rival over ours, median of the rounds: above 1, ours is faster.
        ratio_low: lowest of the rounds.
        ratio_high: highest.
        n_rounds: rounds.
        note: what else the bench measured (rate, memory, equality), in words.
    """

    name: str
    rival: str
    ours_s: float
    rival_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    n_rounds: int
    note: str = ""

    def noting(self, note: str) -> Ratio:
        """The same with a note."""
        return replace(self, note=note)


def compare(
    name: str,
    rival: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    rounds: int = ROUNDS,
    warm: bool = True,
    note: str = "",
) -> Ratio:
    """Interleaved rounds, after one that is not counted. The ratio is taken within a round, where load is alike.

    `warm=False` counts the first round, too: for what takes so long that a first time is no different.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(-int(warm), rounds):
        for kept, function in zip(times, (ours, theirs), strict=True):
            began = time.perf_counter()
            function()
            if round_ >= 0:
                kept.append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return Ratio(
        name, rival, statistics.median(times[0]), statistics.median(times[1]),
        statistics.median(ratios), min(ratios), max(ratios), rounds, note,
    )  # fmt: skip


def machine() -> str:
    """Processor, threads and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, Python {platform.python_version()}"


def adapted() -> Any:
    """The organism with a fresh rank-1 adapter on all seven matrices."""
    from peft import LoraConfig, get_peft_model

    from harness.model.subject import load_base
    from harness.organism import MODEL
    from harness.records import ModelRef

    return get_peft_model(load_base(ModelRef(path=str(MODEL))), LoraConfig(r=1, target_modules=MATRICES)).eval()
