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
from harness.contract.progress import SilentProgress
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError
from harness.records import EvaluationResult, Sample

if TYPE_CHECKING:
    from harness.benchmarks.answerer import Answerer
    from harness.benchmarks.generation import Completion
    from harness.contract.progress import Progress

__all__ = ["evaluate", "list_benchmarks"]

_NO_ANSWER = {"[invalid]", "", None}


def evaluate(
    answerer: Answerer,
    benchmark: str,
    *,
    variant: str,
    settings: EvaluateConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Run a benchmark. Items without an answer count as wrong.

    Args:
        answerer: the model variant, ready to be asked (`harness.benchmarks.answerer`).
        benchmark: name of an lm-eval task: the harness's, one of `task_paths`, or lm-eval's.
        variant: what the model is called: `base`, `adapter`, `full`, `without-attention`, ...
        settings: limit, sampling, budget and data; the task's own where they are None.
        seed: of sampling, for tasks that sample.
        progress: told of every finished item.

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

    settings = settings or EvaluateConfig()
    n_bound = answerer.check()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        task = load_task(
            benchmark, [Path(p) for p in settings.task_paths], data=settings.data, repeats=settings.repeats
        )
        metric = choose_metric(task)
        lm = stack.enter_context(answerer.answering(settings, seed, progress or SilentProgress()))
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
    return tuple(sample for row in of_filter for sample in _generated(task, metric, row, completions))


def _generated(
    task: Any, metric: str, row: dict[str, Any], completions: Mapping[tuple[int, int], Completion]
) -> Iterator[Sample]:
    """The samples of one document: one per repeat, where the filter keeps repeats."""
    responses = list(row["resps"][0])
    filtered = row["filtered_resps"][0]
    repeats = list(filtered) if isinstance(filtered, list) else [filtered]
    extract = getattr(task.config.process_results, "extract", None)
    for repeat, response in enumerate(repeats):
        # A metric over several repeats is their mean: each repeat is scored by the task's own metric.
        scores = row if len(repeats) == 1 else task.process_results(row["doc"], [response])
        score = item_score(scores, metric, task.config.task, row["doc_id"])
        answer = extract(str(response)) if extract else response
        sample = _sample(row, repeat, str(responses[repeat]), None if answer in _NO_ANSWER else str(answer), score)
        completion = completions.get((sample.doc_id, repeat))
        if completion is not None:
            update = {"finish": completion.finish, "n_tokens": completion.n_tokens, "loops": loops(sample.response)}
            sample = sample.model_copy(update=update)
        yield sample


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
