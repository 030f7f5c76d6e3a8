"""Switch parts of the adapter off, or change them, and measure what that does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from harness.contract.context import RunContext
from harness.contract.settings import EvaluateConfig
from harness.errors import UnknownName
from harness.interpretation.config import ScoringConfig
from harness.records import Explanation, Feature, Record, WriteDirection
from harness.study.costs import PROJECTIONS, Cost, CostModel, model_bytes, total
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step
from harness.study.steps import kinds
from harness.study.steps.evaluate import answer_tokens, check_benchmarks
from harness.study.steps.interpret import INSTRUCTION_TOKENS, INTERPRET, llms_of
from harness.study.steps.probe import documents


def _plan(planner: Planner) -> None:
    evaluate = planner.study.settings(EvaluateConfig).model_dump(exclude={"batch_size"})
    for name in planner.study.ablations:
        inputs = tuple(dict.fromkeys((planner.adapter, *_read(planner, name))))
        planner.plugin(ABLATE, name, inputs, [planner.data, planner.benchmarks, evaluate])
    _plan_outputs(planner)


def _plan_outputs(planner: Planner) -> None:
    """Explanations are held against what their features write, where an ablation of the study measures that."""
    study = planner.study
    offers = [planner.manager.offer(name).registration for name in (*study.ablations, *study.interpreters)]
    written = next((r.name for r in offers if r.writes), None)
    scoring = study.settings(ScoringConfig)
    if written is None or not scoring.features:
        return
    for registration in offers:
        steps = planner.steps.values()
        explained = tuple(
            s.name for s in steps if (s.kind, s.plugin) == (INTERPRET.name, registration.name)
            and s.inputs[0] in planner.sources
        )  # fmt: skip
        if registration.scores and explained:
            settings = [llms_of(planner, registration.name), scoring.features]
            planner.plugin(OUTPUT, registration.name, (f"{ABLATE.name}/{written}", *explained), settings)


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


def _output(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    """The output score of the features that `score` asks about, and whose directions were read."""
    from harness.interpretation.output import RANDOM, output_scores, output_test
    from harness.interpretation.reliability import spread_sample

    assert step.plugin is not None
    writing, *explained = step.inputs
    written = {(w.source, w.feature): w for w in state.stored(writing, WriteDirection) if w.effect_tokens}
    n = state.plan.study.settings(ScoringConfig).features
    asked: list[tuple[Explanation, WriteDirection]] = []
    for name in explained:
        (source,) = state.plan.step(name).inputs
        explanations = {e.feature: e for e in state.stored(name, Explanation) if e.explanation is not None}
        features = [f for f in state.stored(source, Feature) if f.feature in explanations]
        layers = {f.feature: f.layer for f in features}
        chosen = spread_sample(layers, n, f"{state.plan.seed}/{features[0].source}") if features else []
        found = ((explanations[f], written.get((features[0].source, f))) for f in chosen)
        asked += [(e, w) for e, w in found if w is not None and f"{RANDOM}/{w.item}" not in run.done]
    tests = [(e, output_test(w)) for e, w in asked]
    written_by_test = {test.item: w for (_, test), (_, w) in zip(tests, asked, strict=True)}
    for answer in state.implementation(step).answer(tests, run):
        for record in output_scores(written_by_test[answer.item], answer, step.plugin):
            if record.item not in run.done:
                yield record


def _output_cost(step: Step, model: CostModel) -> Cost:
    """A question about each feature, with a line per token; `asked` costs nothing where no LLM is."""
    n = model.plan.study.settings(ScoringConfig).features * (len(step.inputs) - 1)
    return model.asked("scorer", n, INSTRUCTION_TOKENS / 4 + 4 * 24)


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
        passes = 6 + 3 * config["nodes"] + n_single * (1 + 3 * config["own_nodes"]) / 2
        read = tokens / 2 if config["tokens_per_answer"] else tokens  # up to the target: half of a document on average
        return model.forward(read * passes, batched=True)
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
OUTPUT = StepKind("output", "ablate", _output, cost=_output_cost, done_by="interpret")
STEPS = StageSteps((ABLATE, OUTPUT), _plan)
