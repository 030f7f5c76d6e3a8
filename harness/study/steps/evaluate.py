"""Run the benchmarks on base, adapter and full fine-tune; have an LLM compare the answers where there is a grader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from harness.benchmarks.equality import PROMPT_VERSION, SCHEMA, Comparison, EqualityAnswer, Failed, comparisons
from harness.config import Config
from harness.contract.context import RunContext
from harness.contract.settings import OF_TRACES, TRACE_LOSS, EvaluateConfig
from harness.errors import UsageError
from harness.llm.client import Client
from harness.llm.parsing import Unparsed, parse_call
from harness.model.traces import resolve
from harness.records import GRADER, AnswerVerdict, EvaluationResult, LLMCall, LLMRequest, Record
from harness.study import sizes
from harness.study.costs import Cost, CostModel, model_bytes, total
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.sizes import ModelSize, model_size
from harness.study.state import RunState
from harness.study.step import Plan, Step

PROMPT_TOKENS = 200
"""Assumed length of a benchmark's question."""
COMPARISON_TOKENS = 350
"""Of a prompt that compares two answers."""


class AnswersConfig(Config):
    """When an LLM compares answers with the gold ones. It does so where the study names a provider for `grader`; the
    rules' scores stay beside its verdicts, and nothing is generated again."""

    asked: Literal["rejected", "all"] = "rejected"
    """`rejected`: answers that the rules call wrong or cannot read; `all`: also those that they accept. Never asked:
    plain integers and option letters, which the rules compare exactly, and unfinished responses without an answer."""
    both_orders: bool = False
    """Ask twice, with the gold answer first and last; where the two replies differ the rules' score stands. Else its
    place is drawn by lot for every pair of answers."""
    max_tokens: PositiveInt = 4096
    """Longest reply, reasoning included."""
    temperature: float | None = None
    """None leaves it to the model (reasoning models refuse the parameter)."""


def _plan(planner: Planner) -> None:
    add_evaluation(planner, "base")
    add_evaluation(planner, "adapter", planner.adapter)
    if planner.reference is not None:
        add_evaluation(planner, "full", planner.reference)


def add_evaluation(planner: Planner, variant: str, *inputs: str) -> None:
    """Add the steps that evaluate a model variant, where the study has benchmarks; `inputs` is who trained it."""
    evaluate = planner.study.settings(EvaluateConfig)
    if not evaluate.benchmarks:
        return
    settings = [planner.benchmarks, variant]
    name, seeded = f"evaluate/{variant}", _samples(evaluate)
    answered = planner.add(name, EVALUATE, None, evaluate, inputs, settings, variant, seeded=seeded)
    if GRADER in planner.llms:
        asked = [planner.llms[GRADER].identity(), PROMPT_VERSION]
        answers = planner.study.settings(AnswersConfig)
        planner.add(f"verify/{variant}", VERIFY, None, answers, (answered,), asked, variant)


def _samples(evaluate: EvaluateConfig) -> bool:
    """Whether answers may be drawn with the seed: at a temperature, or by a task that is not read before it runs."""
    from harness.benchmarks.tasks import task_names

    if evaluate.temperature is not None:
        return evaluate.temperature > 0
    ours = {*task_names(), TRACE_LOSS}  # all greedy
    return bool(evaluate.task_paths) or not set(evaluate.benchmarks) <= ours


def _evaluate(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    from harness.benchmarks.evaluate import evaluate

    answerer = state.answerer(step, run.device)
    assert step.variant is not None
    for benchmark in run.evaluate.benchmarks:
        if f"{step.variant}/{benchmark}" not in run.done:
            yield evaluate(
                answerer, benchmark,
                variant=step.variant, settings=run.evaluate, seed=run.seed, progress=run.progress,
                traces=run.held_out,
            )  # fmt: skip


def _verify(step: Step, state: RunState, run: RunContext) -> Iterator[AnswerVerdict]:
    """One verdict per answer that is asked about, also for those that fail (with a reason). Nothing is generated."""
    config, llm = state.plan.study.settings(AnswersConfig), state.plan.llms[GRADER]
    client = Client.of(run, GRADER)
    asked = [
        comparison
        for result in state.stored(step.inputs[0], EvaluationResult)
        if result.benchmark not in OF_TRACES  # they have no answers
        # the run's seed, not the step's: a pair of answers is one request, whichever model gave it
        for comparison in comparisons(result, asked=config.asked, both_orders=config.both_orders, seed=state.plan.seed)
    ]
    requests = [
        LLMRequest(
            model=client.model,
            user=prompt,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            json_schema=SCHEMA,
        )
        for comparison in asked
        for prompt in comparison.prompts
    ]
    run.progress.start(len({client.key(request) for request in requests}), "answers")
    calls = client.run(requests, on_call=lambda call: run.progress.advance())
    for comparison in asked:
        yield comparison.verdict(_replies(comparison, calls), f"{llm.provider}:{llm.model}")


def _replies(comparison: Comparison, calls: Iterator[LLMCall]) -> list[EqualityAnswer | Failed]:
    replies: list[EqualityAnswer | Failed] = []
    for _ in comparison.gold_first:
        call = next(calls)
        answer = parse_call(call, EqualityAnswer)
        if isinstance(answer, Unparsed):
            replies.append(Failed("failed" if call.reply is None else "unparsed", answer.reason))
        else:
            replies.append(answer.value)
    return replies


def _evaluate_cost(step: Step, model: CostModel) -> Cost:
    evaluate = model.plan.study.settings(EvaluateConfig)
    read = model.n_tokens * model.plan.study.data.held_out if evaluate.reads_held_out else 0.0
    return total([model.generated(answer_tokens(model)), model.forward(read)])


def _verify_cost(step: Step, model: CostModel) -> Cost:
    """At most: every answer is asked about, in every order."""
    study = model.plan.study
    evaluate, answers = study.settings(EvaluateConfig), study.settings(AnswersConfig)
    n = sum(_n_items(name, model) for name in evaluate.benchmarks if name not in OF_TRACES) * (evaluate.repeats or 1)
    return model.asked(GRADER, n * (2 if answers.both_orders else 1), COMPARISON_TOKENS)


def answer_tokens(model: CostModel, limit: int | None = None) -> float:
    """Tokens of all questions and answers of all benchmarks, at most; `limit` items of each."""
    evaluate = model.plan.study.settings(EvaluateConfig)
    n = 0.0
    for name in evaluate.benchmarks:
        if name in OF_TRACES:  # read, or 16 tokens
            continue
        answer = PROMPT_TOKENS + (evaluate.max_gen_toks or _longest_answer(name))
        n += _n_items(name, model, limit) * (evaluate.repeats or 1) * answer
    return n


def _n_items(benchmark: str, model: CostModel, limit: int | None = None) -> int:
    """Items of a benchmark that are run."""
    bounds = (sizes.benchmark_items(benchmark) or 200, model.plan.study.settings(EvaluateConfig).limit, limit)
    return min(x for x in bounds if x is not None)


def _longest_answer(benchmark: str) -> int:
    if benchmark == TRACE_LOSS:
        return 0
    from harness.benchmarks.tasks import read_task, task_names

    if benchmark not in task_names():
        return 256  # lm-eval's default
    return int(read_task(benchmark, resolve_functions=False).get("generation_kwargs", {}).get("max_gen_toks", 256))


def _memory_bytes(step: Step, plan: Plan, size: ModelSize) -> float:
    evaluate = plan.study.settings(EvaluateConfig)
    return model_bytes(step, plan, size) / (evaluate.tensor_parallel_size if evaluate.backend == "vllm" else 1)


def check_benchmarks(plan: Plan, dry_run: bool) -> None:
    """Find the benchmarks and their data, and vLLM where they need it.

    Raises:
        DataError: a benchmark's data cannot be read.
        UnknownName: a benchmark's name.
        UsageError: the benchmarks need vLLM and it is not installed.
    """
    from harness.benchmarks import catalogue
    from harness.benchmarks.engine import require_vllm
    from harness.benchmarks.trace_loss import NO_LOSS

    evaluate = plan.study.settings(EvaluateConfig)
    if evaluate.backend == "vllm" and TRACE_LOSS in evaluate.benchmarks:
        raise UsageError(NO_LOSS)
    if evaluate.backend == "vllm" and not dry_run:
        require_vllm("evaluate.backend=vllm")
    catalogue.check_benchmarks(evaluate.benchmarks, [Path(p) for p in evaluate.task_paths])
    if not dry_run:
        catalogue.check_data(evaluate)


def check_context(plan: Plan, dry_run: bool = False) -> None:
    """Refuse answers that leave no room for a question, before the training that precedes them.

    Raises:
        UsageError: a benchmark's longest answer is as long as the model's context.
    """
    path, evaluate = plan.study.model.path, plan.study.settings(EvaluateConfig)
    size = model_size(path, resolve(path))
    if size is None or size.context is None:
        return
    for name in evaluate.benchmarks:
        longest = _longest_answer(name) if name in OF_TRACES else evaluate.max_gen_toks or _longest_answer(name)
        if longest >= size.context:
            raise UsageError(
                f"{name}: answers of {longest} tokens leave no room for a question in the {size.context} tokens of "
                f"{path}; lower evaluate.max_gen_toks"
            )


EVALUATE = StepKind(
    "evaluate", "evaluate", _evaluate, cost=_evaluate_cost, in_worker=True, memory_bytes=_memory_bytes,
    memory_cure=", or --set evaluate.backend=vllm --set evaluate.tensor_parallel_size=N",
    checks=(check_context, check_benchmarks),
)  # fmt: skip
VERIFY = StepKind("verify", "evaluate", _verify, cost=_verify_cost, asks_llm=True)
STEPS = StageSteps((EVALUATE, VERIFY), _plan, {"evaluate": EvaluateConfig, "answers": AnswersConfig})
