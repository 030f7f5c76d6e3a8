"""Run every benchmark and print a table: ours, the rival, their interleaved medians, the ratio.

python -m bench           # from the top of the checkout
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from harness.activations.exemplars import TopKTracker
from harness.benchmarks.decode import greedy, make_stop
from harness.model.batching import find_backbone
from harness.model.chat import ChatFormat
from harness.model.kl import kl_nats
from harness.model.subject import load_base, load_tokenizer
from harness.model.taps import component_sites, tap
from harness.organism import MODEL
from harness.records import ModelRef

ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """One comparison. `ratio` above 1: ours is faster."""

    name: str
    rival: str
    ours_s: float
    rival_s: float

    @property
    def ratio(self) -> float:
        """The rival's median time over ours."""
        return self.rival_s / self.ours_s


def compare(name: str, rival: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> Ratio:
    """Medians of interleaved rounds, after one that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(ROUNDS + 1):
        for kept, function in zip(times, (ours, theirs), strict=True):
            began = time.perf_counter()
            function()
            if round_:
                kept.append(time.perf_counter() - began)
    return Ratio(name, rival, statistics.median(times[0]), statistics.median(times[1]))


def exemplars() -> Ratio:
    """Streaming top-64 of both polarities with a cap of 4 per document, against sorting the whole matrix."""
    rng = np.random.default_rng(0)
    documents = [rng.standard_normal((140, 28)).astype(np.float16) for _ in range(1000)]

    def ours() -> None:
        tracker = TopKTracker(28, signed=True, k=64, cap=4)
        for values in documents:
            tracker.add_document(values, np.ones(len(values), dtype=bool))

    def theirs() -> None:
        whole = np.concatenate(documents).astype(np.float32)
        for sign in (1, -1):
            np.argsort(-sign * whole, axis=0, kind="stable")[:64]

    return compare("exemplars, 140k tokens x 28 x 2", "numpy argsort (all in memory, no cap)", ours, theirs)


def _adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(load_base(ModelRef(path=str(MODEL))), LoraConfig(r=1, target_modules=targets)).eval()


def capture() -> Ratio:
    """Reading all scalars through the tap, against the same backbone without hooks: the overhead (below 1)."""
    from harness.model.components import find_components

    model = _adapted()
    backbone = find_backbone(model)
    sites = component_sites(find_components(model))
    ids = torch.randint(0, 300, (16, 140), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def ours() -> None:
        for _ in range(10):
            with tap(model, sites) as reading:
                backbone(input_ids=ids, use_cache=False)
            reading.values()

    @torch.no_grad()
    def theirs() -> None:
        for _ in range(10):
            backbone(input_ids=ids, use_cache=False)

    return compare("capture, 28 components", "bare backbone", ours, theirs)


def decoding() -> Ratio:
    """Greedy answers to 128 prompts, against transformers' generate with the same stop token."""
    base = ModelRef(path=str(MODEL))
    model, tokenizer = load_base(base), load_tokenizer(base)
    prompts = [
        ChatFormat().prompt(tokenizer, f"Let a = {i % 10}; b = a + 3; what is b? Show steps.") for i in range(128)
    ]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    stop = make_stop(tokenizer, ["<|im_end|>"])

    def ours() -> None:
        greedy(model, batch["input_ids"], batch["attention_mask"], 64, stop)

    @torch.inference_mode()
    def theirs() -> None:
        model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=64, do_sample=False,
            stop_strings=["<|im_end|>"], tokenizer=tokenizer,
        )  # fmt: skip

    return compare("greedy decoding, 128 prompts", "transformers generate", ours, theirs)


def divergence() -> Ratio:
    """KL in difference form, against log_softmax and kl_div: the price of not cancelling."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(512, 4096, generator=generator) * 4 for _ in range(2))

    def theirs() -> torch.Tensor:
        log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
        return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)

    return compare("KL, 512 x 4096 logits", "torch kl_div of log_softmax", lambda: kl_nats(p, q), theirs)


def main() -> None:
    """Run all and print."""
    table = Table(title=f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds, medians")
    for column in ("what", "rival", "ours (s)", "rival (s)", "ratio"):
        table.add_column(column)
    for bench in (exemplars, capture, decoding, divergence):
        r = bench()
        table.add_row(r.name, r.rival, f"{r.ours_s:.3f}", f"{r.rival_s:.3f}", f"{r.ratio:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
