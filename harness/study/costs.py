"""What a step costs, by arithmetic: tokens, FLOPs, GPU-hours, bytes on disk, LLM calls and their price.

The formulas are in `sizes`; each kind of step says how much of what it does (`harness.study.steps`). Costs say the
order of magnitude: the measured wall time of a finished step stands beside them in the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from harness.llm.prices import find_price
from harness.model.traces import resolve
from harness.study import sizes
from harness.study.lengths import document_lengths
from harness.study.machine import BATCHED_SHARE, WRITTEN_SHARE, cpu_flops
from harness.study.sizes import ModelSize, model_size
from harness.study.step import Plan, Step

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
REPLY_TOKENS = 1500
"""Assumed reply of an LLM, its reasoning included."""


@dataclass(frozen=True)
class Cost:
    """A cost, of a step or of all.

    Attributes:
        tokens: read or written by the model; for evaluations at most.
        flops: of them.
        gpu_h: hours of one H200 at the rates in `sizes`.
        cpu_flops: what it is on a CPU, in units of matrix products (`machine.cpu_flops`).
        other_s: seconds of what is no arithmetic on tensors.
        memory_bytes: of the process that does it, at its peak; of all steps the largest.
        disk_bytes: stored in the artefact folder or (answers to benchmarks) in results.db.
        scratch_bytes: needed besides while it runs, for checkpoints; of all steps the largest.
        llm_calls: to an LLM.
        llm_tokens: prompt and reply tokens of those calls.
        usd: their price; None where no price table has the model.
        unknown: why numbers are missing; None where none is.
    """

    tokens: float = 0.0
    flops: float = 0.0
    gpu_h: float = 0.0
    cpu_flops: float = 0.0
    other_s: float = 0.0
    memory_bytes: float = 0.0
    disk_bytes: float = 0.0
    scratch_bytes: float = 0.0
    llm_calls: float = 0.0
    llm_tokens: float = 0.0
    usd: float | None = 0.0
    unknown: str | None = None


@dataclass(frozen=True)
class CostModel:
    """What costs are worked out from.

    Attributes:
        plan: the plan.
        size: the model's shape; None if it is not known before the download.
        n_traces: of the study.
        lengths: tokens per document, chat included.
        counted: whether each was tokenised, and not reckoned from its characters.
    """

    plan: Plan
    size: ModelSize | None
    lengths: tuple[float, ...]
    counted: bool

    @classmethod
    def of(cls, plan: Plan) -> CostModel:
        """Look at the model's config and the traces; nothing is loaded.

        Raises:
            DataError: the traces cannot be read, and `known_sizes.yaml` does not name them.
        """
        path = plan.study.model.path
        return cls(plan, model_size(path, resolve(path)), *document_lengths(plan))

    @property
    def n_traces(self) -> int:
        """Documents of the study."""
        return len(self.lengths)

    @property
    def n_tokens(self) -> float:
        """Tokens of all of them."""
        return sum(self.lengths)

    @property
    def n_parameters(self) -> int:
        """Weights of the model."""
        return self.size.n_parameters if self.size else 0

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.size.n_layers if self.size else 1

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.size.hidden if self.size else 1

    @property
    def n_components(self) -> int:
        """Scalars per token of the adapter."""
        trainer = next((s for s in self.plan.steps if s.kind == "train" and s.plugin == self.plan.study.adapter), None)
        config = trainer.config.model_dump() if trainer else {}
        modules = config.get("target_modules")
        per_layer = len(modules) if isinstance(modules, Sequence) and not isinstance(modules, str) else len(PROJECTIONS)
        return per_layer * adapted_layers(self.n_layers, config) * int(config.get("rank", 1))

    def forward(self, tokens: float, disk_bytes: float = 0.0, *, batched: bool = False) -> Cost:
        """Of reading tokens; `batched`: several documents are one batch."""
        flops = sizes.forward_flops(self.n_parameters, tokens)
        work = cpu_flops(flops, flops * (BATCHED_SHARE if batched else 1), self.width)
        return self.if_known(Cost(tokens, flops, sizes.gpu_hours(flops), work, disk_bytes=disk_bytes))

    def generated(self, tokens: float) -> Cost:
        """Of writing tokens."""
        flops = sizes.forward_flops(self.n_parameters, tokens)
        disk_bytes = sizes.CHARACTERS_PER_TOKEN * tokens
        work = WRITTEN_SHARE * cpu_flops(flops, flops, self.width)
        return self.if_known(Cost(tokens, flops, sizes.gpu_hours(flops, decoding=True), work, disk_bytes=disk_bytes))

    def asked(self, role: str, n_calls: int, prompt_tokens: float) -> Cost:
        """Of asking the LLM of a role; nothing where the study names none."""
        choice = self.plan.llms.get(role) or self.plan.llms.get("default")
        if choice is None:
            return Cost()
        price = find_price(choice.provider, choice.model, choice.config.prices)
        usd = None if price is None else price.expected_usd(n_calls * prompt_tokens, n_calls * REPLY_TOKENS)
        return Cost(llm_calls=n_calls, llm_tokens=n_calls * (prompt_tokens + REPLY_TOKENS), usd=usd)

    def if_known(self, cost: Cost) -> Cost:
        """The cost, or the reason if the model's size is not known."""
        return cost if self.size else Cost(unknown="model size known after download")


def adapted_layers(n_layers: int, config: dict[str, Any]) -> int:
    """How many layers a trainer's settings adapt."""
    start, stride = int(config.get("layer_start", 0)), int(config.get("layer_stride", 1))
    return len(range(start, int(config.get("layer_end") or n_layers), stride))


def total(costs: Iterable[Cost]) -> Cost:
    """The sum; `usd` is None where one is."""
    parts = list(costs)
    sums: dict[str, Any] = {
        f.name: sum(getattr(e, f.name) or 0 for e in parts) for f in fields(Cost) if f.name != "unknown"
    }
    for name in ("scratch_bytes", "memory_bytes"):
        sums[name] = max((getattr(e, name) for e in parts), default=0.0)
    if any(e.usd is None for e in parts):
        sums["usd"] = None
    return Cost(**sums, unknown=next((e.unknown for e in parts if e.unknown), None))


def free(step: Step, model: CostModel) -> Cost:
    """Of what takes seconds."""
    return Cost()


def model_bytes(step: Step, plan: Plan, size: ModelSize) -> float:
    """Memory of the model's weights."""
    return sizes.memory_bytes(size.n_parameters, plan.study.model.dtype)
