"""Train the adapter that is studied, and the full fine-tune that recovery is measured against."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.contract.context import RunContext
from harness.contract.settings import EvaluateConfig
from harness.records import Record
from harness.study import sizes
from harness.study.costs import PROJECTIONS, Cost, CostModel, adapted_layers
from harness.study.machine import BATCHED_SHARE, UPDATE_S, WRITTEN_BYTES_PER_S, cpu_flops
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.sizes import ModelSize
from harness.study.state import RunState
from harness.study.step import Plan, Step


def _plan(planner: Planner) -> None:
    study, read = planner.study, training_settings(planner)
    planner.adapter = planner.plugin(TRAIN, study.adapter, (), read)
    if study.reference:
        planner.reference = planner.plugin(TRAIN, study.reference, (), read)


def training_settings(planner: Planner) -> list[object]:
    """What a key says of the text that trainers read."""
    study = planner.study
    held_out = study.settings(EvaluateConfig).reads_held_out
    return [*planner.data, *([{"without": study.data.held_out}] if held_out else [])]


def _execute(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    study = state.plan.study
    yield state.implementation(step).train(study.model, state.training_traces(), study.chat, run)


def _cost(step: Step, model: CostModel) -> Cost:
    config = step.config.model_dump()
    if "epochs" not in config:
        return Cost(disk_bytes=4.0 * (model.size.adapter_parameters(1, PROJECTIONS) if model.size else 0))
    kept = [n for n in model.lengths if n <= config["max_length"]]
    study = model.plan.study
    trained_share = 1.0 - study.data.held_out * study.settings(EvaluateConfig).reads_held_out
    tokens = sum(kept) * trained_share * config["epochs"]
    n_updates = len(kept) * trained_share * config["epochs"] / config["batch_size"]
    adapter = "rank" in config
    # A checkpoint holds float32 weights and AdamW's two moments; there are two while one is being replaced.
    flops = sizes.training_flops(
        model.n_parameters, tokens, adapter=adapter, recompute=bool(config.get("gradient_checkpointing"))
    )
    if adapter and model.size:
        n_layers = adapted_layers(model.n_layers, config)
        disk_bytes = 4.0 * model.size.adapter_parameters(config["rank"], PROJECTIONS, n_layers)
        scratch_bytes = 2 * 3 * disk_bytes
    else:
        disk_bytes = sizes.memory_bytes(model.n_parameters, model.plan.study.model.dtype)
        scratch_bytes = 2 * 12.0 * model.n_parameters
    passes = BATCHED_SHARE * sizes.training_flops(model.n_parameters, tokens, adapter=True)
    n_checkpoints = math.ceil(n_updates / config["save_steps"])
    written_s = (n_checkpoints * scratch_bytes / 2 + disk_bytes) / WRITTEN_BYTES_PER_S
    batch_tokens = config["micro_batch_size"] * max(kept, default=0.0)
    return model.if_known(
        Cost(
            tokens,
            flops,
            sizes.gpu_hours(flops),
            cpu_flops(flops, passes, model.width),
            written_s + (0.0 if adapter else n_updates * model.n_parameters * UPDATE_S),
            sizes.training_bytes(model.size, batch_tokens) if model.size else 0.0,
            disk_bytes,
            scratch_bytes,
        )
    )


def _memory_bytes(step: Step, plan: Plan, size: ModelSize) -> float:
    config = step.config.model_dump()
    if "rank" in config:
        trained = size.adapter_parameters(config["rank"], PROJECTIONS)
        dtype = "float32" if config.get("fsdp") else plan.study.model.dtype
        needed = sizes.memory_bytes(size.n_parameters, dtype, trained=trained)
    else:
        needed = 16.0 * size.n_parameters  # float32 weights and gradients, two moments
    return needed / (config["processes"] if config.get("fsdp") else 1)


TRAIN = StepKind(
    "train", "train", _execute, cost=_cost, in_worker=True, seeded=False, memory_bytes=_memory_bytes,
    memory_cure=", or --set {plugin}.processes=N --set {plugin}.fsdp=true",
)  # fmt: skip
STEPS = StageSteps((TRAIN,), _plan)
