"""What a step will cost, before it runs: FLOPs, LLM calls and their tokens.

Arithmetic of paper-scale budgets: a forward pass is 2 FLOP per parameter and token; training an adapter about 4 (no
weight gradients of the base), a full fine-tune 6. Token counts are estimated from characters. Estimates say the
order of
magnitude; the measured wall time of a finished step stands beside them in the report.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.host.plan import Plan, Step
from harness.model.traces import load_traces, resolve
from harness.records import ModelRef

CHARACTERS_PER_TOKEN = 3.0
"""Mathematical English under Qwen2.5's tokenizer gives 2.9 to 3.3."""
_NEW_TOKENS = 512
"""Assumed generation length per benchmark item."""


@dataclass(frozen=True)
class Estimate:
    """A step's cost. None where it cannot be known, with the reason."""

    flops: float | None
    llm_calls: int = 0
    reason: str | None = None

    def text(self) -> str:
        """For the plan's table."""
        if self.llm_calls:
            return f"~{self.llm_calls:,} LLM calls"
        if self.flops is None:
            return self.reason or "unknown"
        for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
            if self.flops >= size:
                return f"~{self.flops / size:.1f} {unit}FLOP"
        return f"~{self.flops:.0f} FLOP" if self.flops else "seconds"


@dataclass(frozen=True)
class _Sizes:
    n_parameters: int | None
    n_layers: int
    n_tokens: int
    n_traces: int


def estimate(plan: Plan) -> dict[str, Estimate]:
    """Step name -> cost, without loading a model."""
    traces = load_traces(plan.row.data)
    characters = sum(len(t.question) + len(t.trace) + len(t.answer) for t in traces)
    parameters, layers = _model_size(plan.row.model)
    sizes = _Sizes(parameters, layers, int(characters / CHARACTERS_PER_TOKEN), len(traces))
    return {step.name: _one(step, plan, sizes) for step in plan.steps}


def _one(step: Step, plan: Plan, sizes: _Sizes) -> Estimate:
    config = step.config.model_dump()
    components = 7 * sizes.n_layers
    if step.kind in ("interpret", "categorise"):
        n = sum(_features(plan.step(name), plan, sizes.n_layers) for name in step.inputs)
        return Estimate(0.0) if not plan.llms else Estimate(None, llm_calls=n)
    if step.kind == "learn":
        width = components * int(config.get("expansion", 8))
        return Estimate(6.0 * components * width * sizes.n_tokens)
    if sizes.n_parameters is None:
        return Estimate(None, reason="size known after download")
    per_token = {"train": 6.0 if step.plugin == "full-finetune" else 4.0}.get(step.kind, 2.0) * sizes.n_parameters
    return Estimate(per_token * _tokens(step, plan, sizes, config, components))


def _features(step: Step, plan: Plan, n_layers: int) -> int:
    """Features of a probe or dictionary step, or of those that an interpretation reads."""
    if step.kind == "interpret":
        return sum(_features(plan.step(name), plan, n_layers) for name in step.inputs)
    config = step.config.model_dump()
    if "n_per_layer" in config:
        return 2 * n_layers * int(config["n_per_layer"])
    return 7 * n_layers * int(config.get("expansion", 2))  # latents, else both polarities of every component


def _tokens(step: Step, plan: Plan, sizes: _Sizes, config: dict[str, Any], components: int) -> float:
    if step.kind == "train":
        return sizes.n_tokens * float(config.get("epochs", 0))
    if step.kind == "evaluate":
        return len(plan.row.evaluate.benchmarks) * (plan.row.evaluate.limit or 200) * _NEW_TOKENS
    share = min(1.0, (config.get("n_documents") or sizes.n_traces) / max(sizes.n_traces, 1))
    cells = components + sizes.n_layers if step.kind == "ablate" else 1
    if step.kind == "judge":  # held-out documents: a pass to read, two spliced, one per latent switched off
        share, cells = 0.1, 3 + plan.row.judging.ablated_latents
    return sizes.n_tokens * share * cells


def _model_size(model: ModelRef) -> tuple[int | None, int]:
    folder = resolve(model.path)
    layers = 1
    config = folder / "config.json"
    if config.is_file():
        layers = int(json.loads(config.read_text()).get("num_hidden_layers", 1))
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return (sum(_count(f) for f in files) if files else None), layers


def _count(file: Path) -> int:
    """Parameters in a safetensors file, read from its header alone."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for n in tensor["shape"]:
                size *= n
            total += size
    return total
