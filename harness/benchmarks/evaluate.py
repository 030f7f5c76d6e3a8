"""One model variant on one benchmark, every sample kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks.catalogue import list_benchmarks, load_task
from harness.benchmarks.grading import loops
from harness.benchmarks.metrics import choose_metric, item_score
from harness.benchmarks.opening import Opening
from harness.benchmarks.trace_loss import evaluate_loss
from harness.contract.progress import SilentProgress
from harness.contract.settings import OF_TRACES, OPENS_TRACE, TRACE_LOSS, EvaluateConfig
from harness.errors import DataError
from harness.model.traces import DataConfig, load_traces
from harness.records import EvaluationResult, Sample, Trace

if TYPE_CHECKING:
    from harness.benchmarks.answerer import Answerer
    from harness.benchmarks.generation import Completion
    from harness.contract.progress import Progress
    from harness.model.chat import ChatFormat

__all__ = ["evaluate", "list_benchmarks"]

FLEXIBLE_FILTER = "flexible-extract"
"""lm-eval's name for the filter that takes the last number."""

_NO_ANSWER = {"[invalid]", "", None}


def evaluate(
    answerer: Answerer,
    benchmark: str,
    *,
    variant: str,
    settings: EvaluateConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    traces: Sequence[Trace] = (),
) -> EvaluationResult:
    """Run a benchmark. Items without an answer count as wrong.

    Args:
        answerer: the model variant, ready to be asked (`harness.benchmarks.answerer`).
        benchmark: name of an lm-eval task: the harness's, one of `task_paths`, or lm-eval's.
        variant: what the model is called: `base`, `adapter`, `full`, `without-attention`, ...
        settings: limit, sampling, budget and data; the task's own where they are None.
        seed: of sampling, for tasks that sample.
        progress: told of every finished item.
        traces: held-out ones, for the benchmarks that read them.

    Returns:
        Scores of the task's metric (`choose_metric`) behind its first filter, with all samples in the order of the
        documents.

    Raises:
        ModelError: the adapter binds no module, or does not change the model's output.
        UnknownName: no such task.
        UsageError: no metric of the task is a mean of item scores between 0 and 1.
        DataError: the task's data cannot be read, or has no items, or an item lacks its question or gold answer.
    """
    import torch
    from lm_eval.evaluator import evaluate as run_lm_eval

    from harness.benchmarks.lm import quiet

    settings, progress = settings or EvaluateConfig(), progress or SilentProgress()
    overrides: dict[str, Any] = {}
    if benchmark in OF_TRACES:
        if benchmark in settings.data:
            traces = load_traces(DataConfig(path=settings.data[benchmark]))
        if benchmark == TRACE_LOSS:
            return evaluate_loss(answerer, traces, variant=variant, limit=settings.limit, progress=progress)
        settings, overrides = _opening(settings, traces, answerer.chat)
    n_bound = answerer.check()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        task = load_task(
            benchmark,
            [Path(p) for p in settings.task_paths],
            data=settings.data,
            repeats=settings.repeats,
            overrides=overrides,
        )
        metric = choose_metric(task)
        lm = stack.enter_context(answerer.answering(settings, seed, progress))
        outcome = run_lm_eval(
            lm,
            {"tasks": {benchmark: task}, "groups": {}, "group_map": {}},
            limit=settings.limit,
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    samples = _samples(task, metric, outcome["samples"][benchmark], lm.completions)
    n_items = len({s.doc_id for s in samples})
    return EvaluationResult(
        item=f"{variant}/{benchmark}",
        variant=variant,
        benchmark=benchmark,
        metric=metric,
        n_items=n_items,
        score=_mean_over_items(samples),
        samples=samples,
        chat_hash=answerer.chat_hash,
        engine=answerer.engine,
        n_bound=n_bound,
    )


def _opening(
    settings: EvaluateConfig, traces: Sequence[Trace], chat: ChatFormat
) -> tuple[EvaluateConfig, dict[str, Any]]:
    """What `opens_trace` asks and accepts: the traces' questions, and the opening of the study's format."""
    if not traces:
        raise DataError(f"{OPENS_TRACE} needs held-out traces, and there are none")
    rows = [{"question": trace.question} for trace in traces]

    def read(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    # A budget for thinking would open the trace itself, and a long answer tells no more than its beginning.
    settings = settings.model_copy(update={"thinking_tokens": None, "max_gen_toks": None, "data": {}})
    return settings, {"custom_dataset": read, "process_results": Opening(chat.own_marks.think_header)}


def _samples(
    task: Any, metric: str, rows: Sequence[dict[str, Any]], completions: Mapping[tuple[int, int], Completion]
) -> tuple[Sample, ...]:
    """lm-eval's log (one row per document and filter) as samples of the task's first filter, sorted by document."""
    if not rows:
        raise DataError(f"benchmark {task.config.task!r} has no items")
    first = rows[0]["filter"]
    of_filter = sorted((row for row in rows if row["filter"] == first), key=lambda row: row["doc_id"])
    if task.OUTPUT_TYPE == "multiple_choice":
        return tuple(_chosen(task, metric, row) for row in of_filter)
    if task.OUTPUT_TYPE == "loglikelihood":
        return tuple(_continued(task, metric, row) for row in of_filter)
    # The second grading of answers that lm-eval's tasks know under this name; it generates nothing.
    flexible = {row["doc_id"]: row for row in rows if row["filter"] == FLEXIBLE_FILTER != first}
    return tuple(
        sample
        for row in of_filter
        for sample in _generated(task, metric, row, flexible.get(row["doc_id"]), completions)
    )


def _generated(
    task: Any,
    metric: str,
    row: dict[str, Any],
    flexible: dict[str, Any] | None,
    completions: Mapping[tuple[int, int], Completion],
) -> Iterator[Sample]:
    """The samples of one document: one per repeat, where the filter keeps repeats."""
    responses = list(row["resps"][0])
    extract = getattr(task.config.process_results, "extract", None)
    second = [score for _, score in _scored(task, metric, flexible)] if flexible else []
    for repeat, (response, score) in enumerate(_scored(task, metric, row)):
        answer = extract(str(response)) if extract else response
        sample = _sample(row, repeat, str(responses[repeat]), None if answer in _NO_ANSWER else str(answer), score)
        update: dict[str, Any] = {"score_flexible": second[repeat]} if repeat < len(second) else {}
        completion = completions.get((sample.doc_id, repeat))
        if completion is not None:
            update |= {"finish": completion.finish, "n_tokens": completion.n_tokens, "loops": loops(sample.response)}
        yield sample.model_copy(update=update)


def _scored(task: Any, metric: str, row: dict[str, Any]) -> Iterator[tuple[Any, float]]:
    """Each repeat of a document behind a filter, with its score."""
    filtered = row["filtered_resps"][0]
    repeats = list(filtered) if isinstance(filtered, list) else [filtered]
    for response in repeats:
        # A metric over several repeats is their mean: each repeat is scored by the task's own metric.
        scores = row if len(repeats) == 1 else task.process_results(row["doc"], [response])
        yield response, item_score(scores, metric, task.config.task, row["doc_id"])


def _chosen(task: Any, metric: str, row: dict[str, Any]) -> Sample:
    """A multiple-choice document: the response is the choice with the highest log-likelihood."""
    choices = [str(c) for c in task.doc_to_choice(row["doc"])]
    logs = [float(r[0]) for r in row["filtered_resps"][: len(choices)]]
    best = choices[max(range(len(choices)), key=logs.__getitem__)]
    target = row["target"]
    named = {**row, "target": choices[target] if isinstance(target, int) else target}
    return _sample(named, 0, best, best, item_score(row, metric, task.config.task, row["doc_id"]))


def _continued(task: Any, metric: str, row: dict[str, Any]) -> Sample:
    """A document whose gold continuation was read: the response is that text where greedy decoding writes it."""
    log_likelihood, is_greedy = row["filtered_resps"][0]
    answer = str(row["target"]) if is_greedy else None
    response = answer or f"not the gold continuation (its log-likelihood: {float(log_likelihood):.4f} nats)"
    return _sample(row, 0, response, answer, item_score(row, metric, task.config.task, row["doc_id"]))


def _sample(row: dict[str, Any], repeat: int, response: str, extracted: str | None, score: float) -> Sample:
    prompt = str(row["arguments"][0][0])
    return Sample(
        doc_id=int(row["doc_id"]),
        repeat=repeat,
        prompt=prompt,
        prompt_hash=hashlib.sha256(prompt.encode()).hexdigest(),
        response=response,
        extracted=extracted,
        target=str(row["target"]),
        score=score,
    )


def _mean_over_items(samples: Sequence[Sample]) -> float:
    by_item: dict[int, list[float]] = {}
    for sample in samples:
        by_item.setdefault(sample.doc_id, []).append(sample.score)
    return sum(sum(scores) / len(scores) for scores in by_item.values()) / len(by_item)
