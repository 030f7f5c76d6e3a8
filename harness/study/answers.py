"""The step that has an LLM compare benchmark answers with the gold ones. It reads what is stored, generates nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.benchmarks.equality import SCHEMA, Comparison, EqualityAnswer, Failed, comparisons
from harness.llm.client import Client
from harness.llm.parsing import Unparsed, parse_call
from harness.records import GRADER, AnswerVerdict, EvaluationResult, LLMCall, LLMRequest

if TYPE_CHECKING:
    from harness.contract.context import RunContext
    from harness.study.plan import Step
    from harness.study.steps import Workbench


def verify(step: Step, bench: Workbench, run: RunContext) -> Iterator[AnswerVerdict]:
    """One verdict per answer that is asked about, failures with their reason."""
    config, llm = bench.plan.row.answers, bench.plan.llms[GRADER]
    client = Client.of(run, GRADER)
    asked = [
        comparison
        for result in bench.stored(step.inputs[0], EvaluationResult)
        # the run's seed, not the step's: a pair of answers is one request, whichever model gave it
        for comparison in comparisons(result, asked=config.asked, both_orders=config.both_orders, seed=bench.plan.seed)
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
