"""What a step will cost, before it runs: tokens, FLOPs, GPU-hours, bytes on disk, LLM calls and their price.

The arithmetic is `sizes`; this module knows which step does how much of it. Estimates say the order of magnitude: the
measured wall time of a finished step stands beside them in the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from harness.errors import UsageError
from harness.llm.prices import find_price
from harness.model.traces import load_traces, resolve
from harness.records import GRADER, JUDGE, SECOND_JUDGE
from harness.study import sizes
from harness.study.plan import Plan, Step
from harness.study.sizes import ModelSize, model_size

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROMPT_TOKENS = 200
"""Assumed length of a benchmark's question."""
INSTRUCTION_TOKENS = 600
"""Of an explainer's or categoriser's prompt, without the contexts (appendix B)."""
HELD_OUT = 0.1
"""Share of the documents that dictionaries are judged on."""
COMPARISON_TOKENS = 350
"""Of a prompt that compares two answers."""
REPLY_TOKENS = 1500
"""Assumed reply of an LLM, its reasoning included."""


@dataclass(frozen=True)
class Estimate:
    """A cost, of a step or of all.

    Attributes:
        tokens: read or written by the model; for evaluations at most.
        flops: of them.
        gpu_h: hours of one H200 at the rates in `sizes`.
        disk_bytes: kept, in the artefact folder or (answers to benchmarks) in results.db.
        scratch_bytes: needed besides while it runs, for checkpoints; of all steps the largest.
        llm_calls: to an LLM.
        llm_tokens: prompt and reply tokens of those calls.
        usd: their price; None where no price table has the model.
        unknown: why numbers are missing; None where none is.
    """

    tokens: float = 0.0
    flops: float = 0.0
    gpu_h: float = 0.0
    disk_bytes: float = 0.0
    scratch_bytes: float = 0.0
    llm_calls: float = 0.0
    llm_tokens: float = 0.0
    usd: float | None = 0.0
    unknown: str | None = None


@dataclass(frozen=True)
class _World:
    plan: Plan
    size: ModelSize | None
    n_traces: int
    n_tokens: float

    @property
    def n_parameters(self) -> int:
        return self.size.n_parameters if self.size else 0

    @property
    def n_layers(self) -> int:
        return self.size.n_layers if self.size else 1

    @property
    def n_components(self) -> int:
        """Scalars per token of the adapter."""
        trainer = next((s for s in self.plan.steps if s.kind == "train" and s.plugin == self.plan.row.adapter), None)
        config = trainer.config.model_dump() if trainer else {}
        modules = config.get("target_modules")
        per_layer = len(modules) if isinstance(modules, Sequence) and not isinstance(modules, str) else len(PROJECTIONS)
        return per_layer * adapted_layers(self.n_layers, config) * int(config.get("rank", 1))

    def documents(self, config: dict[str, Any]) -> tuple[int, float]:
        """(documents, their tokens) that an ablation reads."""
        n = min(int(config.get("n_documents") or self.n_traces), self.n_traces)
        mean = self.n_tokens / max(self.n_traces, 1)
        return n, n * min(mean, float(config.get("max_tokens") or mean))


def adapted_layers(n_layers: int, config: dict[str, Any]) -> int:
    """How many layers a trainer's settings adapt."""
    start, stride = int(config.get("layer_start", 0)), int(config.get("layer_stride", 1))
    return len(range(start, int(config.get("layer_end") or n_layers), stride))


def estimate(plan: Plan) -> dict[str, Estimate]:
    """Step name -> cost, without loading a model.

    Raises:
        DataError: the traces cannot be read, and nobody wrote down how many there are.
    """
    world = _World(plan, model_size(plan.row.model.path, resolve(plan.row.model.path)), *study_tokens(plan))
    return {step.name: _STEPS[step.kind](step, world) for step in plan.steps}


def total(estimates: Iterable[Estimate]) -> Estimate:
    """The sum; `usd` is None where one is."""
    parts = list(estimates)
    sums: dict[str, Any] = {
        f.name: sum(getattr(e, f.name) or 0 for e in parts) for f in fields(Estimate) if f.name != "unknown"
    }
    sums["scratch_bytes"] = max((e.scratch_bytes for e in parts), default=0.0)
    if any(e.usd is None for e in parts):
        sums["usd"] = None
    return Estimate(**sums, unknown=next((e.unknown for e in parts if e.unknown), None))


def check_memory(plan: Plan, pending: Sequence[str], free_bytes: float, device: str) -> None:
    """Refuse a run whose weights alone do not fit the device, before anything is loaded.

    Raises:
        UsageError: they do not; it names what is needed and the cures.
    """
    size = model_size(plan.row.model.path, resolve(plan.row.model.path))
    if size is None:
        return
    for step in plan.steps:
        if step.name not in pending or step.kind not in ("train", "evaluate", "probe", "judge", "ablate"):
            continue
        needed = _memory(step, plan, size)
        if needed > free_bytes:
            more = {
                "train": f", or --set {step.plugin}.processes=N --set {step.plugin}.fsdp=true",
                "evaluate": ", or --set evaluate.backend=vllm --set evaluate.tensor_parallel_size=N",
            }.get(step.kind, "")
            raise UsageError(
                f"{step.name} needs about {needed / 1e9:.0f} GB for its weights, and {device} has "
                f"{free_bytes / 1e9:.0f} GB free: use a smaller model, --set model.dtype=bfloat16{more}"
            )


def check_context(plan: Plan) -> None:
    """Refuse answers that leave no room for a question, before the training that precedes them.

    Raises:
        UsageError: a benchmark's longest answer is as long as the model's context.
    """
    size = model_size(plan.row.model.path, resolve(plan.row.model.path))
    if size is None or size.context is None or not any(step.kind == "evaluate" for step in plan.steps):
        return
    for name in plan.row.evaluate.benchmarks:
        longest = plan.row.evaluate.max_gen_toks or _longest(name)
        if longest >= size.context:
            raise UsageError(
                f"{name}: answers of {longest} tokens leave no room for a question in the {size.context} tokens of "
                f"{plan.row.model.path}; lower evaluate.max_gen_toks"
            )


def _memory(step: Step, plan: Plan, size: ModelSize) -> float:
    dtype, config = plan.row.model.dtype, step.config.model_dump()
    if step.kind != "train":
        served = step.kind == "evaluate" and plan.row.evaluate.backend == "vllm"
        return sizes.memory_bytes(size.n_parameters, dtype) / (plan.row.evaluate.tensor_parallel_size if served else 1)
    if "rank" in config:
        trained = size.adapter_parameters(config["rank"], PROJECTIONS)
        needed = sizes.memory_bytes(size.n_parameters, "float32" if config.get("fsdp") else dtype, trained=trained)
    else:
        needed = 16.0 * size.n_parameters  # float32 weights and gradients, two moments
    return needed / (config["processes"] if config.get("fsdp") else 1)


def study_tokens(plan: Plan) -> tuple[int, float]:
    """(traces, tokens) of the study.

    Raises:
        DataError: the traces cannot be read, and nobody wrote down how many there are.
    """
    known = sizes.data_tokens(plan.row.data.path)
    if known is not None and not resolve(plan.row.data.path).exists():
        n = min(known[0], plan.row.data.limit or known[0])
        return n, known[1] * n / known[0]
    traces = load_traces(plan.row.data)
    characters = sum(len(t.question) + len(t.trace) + len(t.answer) for t in traces)
    return len(traces), characters / sizes.CHARACTERS_PER_TOKEN


def _unknown(world: _World) -> Estimate | None:
    return None if world.size else Estimate(unknown="model size known after download")


def _forward(world: _World, tokens: float, disk: float = 0.0) -> Estimate:
    flops = sizes.forward_flops(world.n_parameters, tokens)
    return _unknown(world) or Estimate(tokens, flops, sizes.gpu_hours(flops), disk)


def _train(step: Step, world: _World) -> Estimate:
    config = step.config.model_dump()
    if "epochs" not in config:
        return Estimate(disk_bytes=4.0 * (world.size.adapter_parameters(1, PROJECTIONS) if world.size else 0))
    tokens = world.n_tokens * config["epochs"]
    adapter = "rank" in config
    # A checkpoint holds float32 weights and AdamW's two moments; there are two while one is being replaced.
    flops = sizes.training_flops(
        world.n_parameters, tokens, adapter=adapter, recompute=bool(config.get("gradient_checkpointing"))
    )
    if adapter and world.size:
        n_layers = adapted_layers(world.n_layers, config)
        disk = 4.0 * world.size.adapter_parameters(config["rank"], PROJECTIONS, n_layers)
        scratch = 2 * 3 * disk
    else:
        disk = sizes.memory_bytes(world.n_parameters, world.plan.row.model.dtype)
        scratch = 2 * 12.0 * world.n_parameters
    return _unknown(world) or Estimate(tokens, flops, sizes.gpu_hours(flops), disk, scratch)


def _evaluate(step: Step, world: _World) -> Estimate:
    return _unknown(world) or _generated(world, _answers(world))


def _verify(step: Step, world: _World) -> Estimate:
    """At most: every answer is asked about, in every order."""
    settings, config = world.plan.row.evaluate, world.plan.row.answers
    n = sum(_items(name, world) for name in settings.benchmarks) * (settings.repeats or 1)
    return _asked(world, GRADER, n * (2 if config.both_orders else 1), COMPARISON_TOKENS)


def _items(benchmark: str, world: _World, limit: int | None = None) -> int:
    """Items of a benchmark that are run."""
    bounds = (sizes.benchmark_items(benchmark) or 200, world.plan.row.evaluate.limit, limit)
    return min(x for x in bounds if x is not None)


def _answers(world: _World, limit: int | None = None) -> float:
    """Tokens of all answers to all benchmarks, at most."""
    settings = world.plan.row.evaluate
    n = 0.0
    for name in settings.benchmarks:
        answer = PROMPT_TOKENS + (settings.max_gen_toks or _longest(name))
        n += _items(name, world, limit) * (settings.repeats or 1) * answer
    return n


def _longest(benchmark: str) -> int:
    from harness.benchmarks.tasks import read_task, task_names

    if benchmark not in task_names():
        return 256  # lm-eval's default
    return int(read_task(benchmark, resolve_functions=False).get("generation_kwargs", {}).get("max_gen_toks", 256))


def _generated(world: _World, tokens: float) -> Estimate:
    flops = sizes.forward_flops(world.n_parameters, tokens)
    return Estimate(
        tokens, flops, sizes.gpu_hours(flops, decoding=True), disk_bytes=sizes.CHARACTERS_PER_TOKEN * tokens
    )


def _probe(step: Step, world: _World) -> Estimate:
    config, read = step.config.model_dump(), world.plan.row.features
    share = min(1.0, (read.documents or world.n_traces) / max(world.n_traces, 1))
    tokens = world.n_tokens * share
    return _forward(
        world, tokens, sizes.activation_bytes(_columns(step, world), tokens, config.get("dtype", "float16"))
    )


def _columns(step: Step, world: _World) -> int:
    per_layer = step.config.model_dump().get("n_per_layer")
    return int(per_layer) * world.n_layers if per_layer else world.n_components


def _learn(step: Step, world: _World) -> Estimate:
    config = step.config.model_dump()
    d_in, expansion = world.n_components, int(config.get("expansion") or 1)
    passes = world.n_tokens * (config.get("epochs") or 1)
    if not config.get("epochs") and config.get("steps"):
        passes = float(config["steps"]) * float(config.get("batch_size", 512))
    flops = 6.0 * d_in * d_in * expansion * passes
    codes = 6.0 * float(config.get("k") or d_in) * world.n_tokens if step.name in world.plan.sources else 0.0
    return _unknown(world) or Estimate(passes, flops, sizes.gpu_hours(flops), codes)


def _judge(step: Step, world: _World) -> Estimate:
    """Held-out documents, at most `splice_documents`: the adapter, the base and the splice are run on them, and where
    the latents are explained once more each latent that is switched off."""
    judging = world.plan.row.judging
    n_documents = min(judging.splice_documents, HELD_OUT * world.n_traces)
    tokens = n_documents * world.n_tokens / max(world.n_traces, 1)
    latents = judging.ablated_latents + 1 if step.inputs[0] in world.plan.sources else 0
    return _forward(world, tokens * (3 + latents))


def _ablate(step: Step, world: _World) -> Estimate:
    config = step.config.model_dump()
    _, tokens = world.documents(config)
    if "benchmark_groups" in config:
        cells = 2 + len(PROJECTIONS)
        wanted = {"all": cells, "blocks": 2, "none": 0}[config["benchmark_groups"]]
        whole = _forward(world, tokens * cells)
        answers = [_answers(world)] * min(wanted, 2)
        answers += [_answers(world, config.get("projection_items"))] * max(wanted - 2, 0)
        return total([whole, *(_generated(world, n) for n in answers)]) if world.size else whole
    cells = world.n_components + world.n_layers + int(config.get("n_blocks") or 0) + len(PROJECTIONS) + 1
    screened = config.get("method") == "screen" or (
        config.get("method") == "auto" and world.n_components > int(config.get("exact_up_to", 0))
    )
    if screened:
        share = float(config.get("top_share", 0)) + float(config.get("audit_share", 0))
        cells = cells - world.n_components + round(world.n_components * share) + 2 * int(config.get("probes") or 0)
    return _forward(world, tokens * cells / 2)  # an ablation runs the layers above it: half of them on average


def _interpret(step: Step, world: _World) -> Estimate:
    if not world.plan.llms:
        return Estimate()
    contexts = int(step.config.model_dump().get("n_contexts") or 64)
    n = sum(_n_features(world.plan.step(name), world) for name in step.inputs)
    prompt = INSTRUCTION_TOKENS + contexts * (2 * world.plan.row.features.window + 1 + 40)
    return _explained(world, n, prompt)


def _explained(world: _World, n: int, prompt: float) -> Estimate:
    own = _asked(world, "explainer", n, prompt)
    return total([own, _asked(world, JUDGE, n, prompt)]) if JUDGE in world.plan.llms else own


def _categorise(step: Step, world: _World) -> Estimate:
    if not world.plan.llms:
        return Estimate()
    sources = [world.plan.step(source) for name in step.inputs for source in world.plan.step(name).inputs]
    shown = int(step.config.model_dump().get("n_category_examples") or 5)
    prompt = INSTRUCTION_TOKENS + shown * (2 * world.plan.row.features.window + 1 + 40)
    return _asked(world, "categoriser", sum(_n_features(s, world) for s in sources), prompt)


def _score(step: Step, world: _World) -> Estimate:
    """Detection, fuzzing and intruder tests of a sample of the source's features."""
    scoring = world.plan.row.scoring
    n = min(scoring.features, _n_features(world.plan.step(step.inputs[1]), world))
    prompt = INSTRUCTION_TOKENS / 4 + 2 * scoring.contexts * (2 * scoring.window + 1)
    return _asked(world, "scorer", n * (2 + scoring.intruders), prompt)


def _regrade(step: Step, world: _World) -> Estimate:
    grading, plan = world.plan.row.grading, world.plan
    sources = [plan.step(source) for name in step.inputs for source in plan.step(name).inputs]
    n = sum(
        _n_features(s, world) if s.kind == "plant" else min(grading.features, _n_features(s, world)) for s in sources
    )
    contexts = int(step.config.model_dump().get("n_contexts") or 64)
    prompt = INSTRUCTION_TOKENS + contexts * (2 * plan.row.features.window + 1 + 40)
    own = _explained(world, n * (grading.repeats + grading.shuffles), prompt)
    return total([own, _asked(world, SECOND_JUDGE, n, prompt)]) if SECOND_JUDGE in plan.llms else own


def _recategorise(step: Step, world: _World) -> Estimate:
    sources = [world.plan.step(source) for name in step.inputs for source in world.plan.step(name).inputs]
    shown = int(step.config.model_dump().get("n_category_examples") or 5)
    prompt = INSTRUCTION_TOKENS + shown * (2 * world.plan.row.features.window + 1 + 40)
    n = sum(min(world.plan.row.grading.recategorised, _n_features(s, world)) for s in sources)
    return _asked(world, "categoriser", n, prompt)


def _seconds(step: Step, world: _World) -> Estimate:
    return Estimate()


def _n_features(step: Step, world: _World) -> int:
    """Features of a probe or dictionary step, or planted ones."""
    if step.kind == "plant":
        return 3 * world.plan.row.grading.planted
    config = step.config.model_dump()
    if step.kind == "learn":
        return world.n_components * int(config.get("expansion") or 1)
    return 2 * _columns(step, world)


def _asked(world: _World, role: str, n_calls: int, prompt_tokens: float) -> Estimate:
    choice = world.plan.llms.get(role) or world.plan.llms.get("default")
    if choice is None:
        return Estimate()
    own = choice.config.model_dump().get("prices")
    price = find_price(choice.provider, choice.model, own)
    usd = None if price is None else price.expected_usd(n_calls * prompt_tokens, n_calls * REPLY_TOKENS)
    return Estimate(llm_calls=n_calls, llm_tokens=n_calls * (prompt_tokens + REPLY_TOKENS), usd=usd)


_STEPS = {
    "train": _train, "evaluate": _evaluate, "verify": _verify, "probe": _probe, "learn": _learn, "judge": _judge,
    "interpret": _interpret,
    "categorise": _categorise, "ablate": _ablate, "plant": _seconds, "score": _score, "regrade": _regrade,
    "recategorise": _recategorise, "enrich": _seconds,
}  # fmt: skip
