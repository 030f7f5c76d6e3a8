"""Switch parts of the adapter off, or change them, and measure what that does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from harness.contract.context import RunContext
from harness.contract.settings import EvaluateConfig
from harness.errors import UnknownName
from harness.records import Record
from harness.study.costs import PROJECTIONS, Cost, CostModel, model_bytes, total
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step
from harness.study.steps import kinds
from harness.study.steps.evaluate import answer_tokens, check_benchmarks
from harness.study.steps.probe import documents


def _plan(planner: Planner) -> None:
    evaluate = planner.study.settings(EvaluateConfig).model_dump(exclude={"batch_size"})
    for name in planner.study.ablations:
        inputs = tuple(dict.fromkeys((planner.adapter, *_read(planner, name))))
        planner.plugin(ABLATE, name, inputs, [planner.data, planner.benchmarks, evaluate])


def _read(planner: Planner, name: str) -> tuple[str, ...]:
    """The steps that an ablation reads: all of the kinds that it names, but of dictionaries only the explained ones.

    Raises:
        UnknownName: there is no such kind of step.
    """
    planner.refuse_other_stage(name, "ablate")
    wanted = planner.manager.offer(name).registration.reads
    for kind in wanted:
        if kind not in kinds():
            raise UnknownName(f"kind of step that {name} reads", kind, kinds())

    def explained(step: Step) -> bool:
        learned = {n for n in (step.name, *step.inputs) if planner.steps[n].kind == "learn"}
        return learned <= {*planner.sources}

    return tuple(step.name for step in planner.steps.values() if step.kind in wanted and explained(step))


def _execute(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    if state.registration(step).reads:
        run = replace(run, made=state.made(step))
    yield from state.implementation(step).measure(state.adapter_subject(step, run.device), documents(state), run)


def _cost(step: Step, model: CostModel) -> Cost:
    config = step.config.model_dump()
    tokens = _tokens(config, model)
    if "residual_tokens" in config:  # base, adapter and full fine-tune, once each
        return model.forward(3 * tokens)
    if "benchmark_groups" in config:
        cells = 2 + len(PROJECTIONS)
        wanted = {"all": cells, "blocks": 2, "none": 0}[config["benchmark_groups"]]
        answers = [answer_tokens(model)] * min(wanted, 2)
        answers += [answer_tokens(model, config.get("projection_items"))] * max(wanted - 2, 0)
        return total([model.forward(tokens * cells), *map(model.generated, answers)])
    if "own_nodes" in config:  # backward passes, which count three; those of single components run half of the layers
        n_single = min(config["exact_top"] + config["exact_random"], model.n_components)
        return model.forward(tokens * (6 + 3 * config["nodes"] + n_single * (1 + 3 * config["own_nodes"]) / 2))
    if "doses" in config:
        return _steering_cost(config, tokens, model)
    if "effect_tokens" in config:  # a forward pass, and a backward pass per token, which counts two
        return model.forward(tokens * (1 + 2 * config["effect_tokens"]))
    cells = model.n_components + model.n_layers + int(config.get("n_blocks") or 0) + len(PROJECTIONS) + 1
    screened = config.get("method") == "screen" or (
        config.get("method") == "auto" and model.n_components > int(config.get("exact_up_to", 0))
    )
    if screened:
        share = float(config.get("top_share", 0)) + float(config.get("audit_share", 0))
        cells = cells - model.n_components + round(model.n_components * share) + 2 * int(config.get("probes") or 0)
    return model.forward(tokens * cells / 2)  # an ablation runs the layers above it: half of them on average


def _steering_cost(config: dict[str, Any], tokens: float, model: CostModel) -> Cost:
    """Every push and its controls read all tokens; doses and their controls also answer items of one benchmark."""
    n_features = len(config["features"]) or config["strongest"] + len(config["readers"])
    per_size = 1 + len(config["controls"])
    n_pushes = n_features * (len(config["gains"]) + len(config["doses"])) * per_size
    n_benchmarks = len(model.plan.study.settings(EvaluateConfig).benchmarks)
    answers = answer_tokens(model, config["items"]) / n_benchmarks if config["items"] and n_benchmarks else 0.0
    written = model.generated(answers * n_features * len(config["doses"]) * per_size)
    return total([model.forward(tokens * n_pushes), written])


def _tokens(config: dict[str, Any], model: CostModel) -> float:
    """Tokens of the documents that an ablation reads."""
    n_documents = min(int(config.get("n_documents") or model.n_traces), model.n_traces)
    longest = float(config.get("max_tokens") or "inf")
    return sum(min(n, longest) for n in model.lengths[:n_documents])


ABLATE = StepKind(
    "ablate", "ablate", _execute, cost=_cost, in_worker=True, on_executor=True, memory_bytes=model_bytes,
    checks=(check_benchmarks,),
)  # fmt: skip
STEPS = StageSteps((ABLATE,), _plan)
