"""Which of a task's metrics scores its items, and the check that an item's score is a number between 0 and 1.

Recovery, its intervals and the paired tests need a score per item whose mean is the benchmark's score. A perplexity, a
correlation or a corpus BLEU is no such mean: a task that has nothing else is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from harness.errors import UsageError

_SHARES = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"}
"""lm-eval's own metrics that score an item 0 or 1."""
_ROUNDING = 1e-6
_TASK_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
"""What a task's own code may raise on an answer that is no model's."""
_CURE = (
    "in a copy of its YAML, whose folder you name in evaluate.task_paths, list a metric that scores each item from 0 "
    "to 1 (acc, exact_match) with aggregation: mean and higher_is_better: true"
)


def choose_metric(task: Any) -> str:
    """The task's first metric that is the mean of its items' scores, each between 0 and 1 and better when higher.

    Where lm-eval does not define the metric itself, the first item is scored on trial: with its gold answer, and with
    an empty one.

    Raises:
        UsageError: it has none; each metric is named with the reason.
    """
    from lm_eval.api.metrics import mean

    aggregations, higher = task.aggregation(), task.higher_is_better()
    trial = _trial_scores(task)
    scored = [metric for metric in aggregations if not trial or metric in trial]
    reasons = []
    for metric in scored or trial:  # a metric that is a function may score under other names (pass@1)
        aggregation = aggregations.get(metric, mean)  # as lm-eval does for what is not declared
        reason = None
        if aggregation is not mean:
            reason = f"is aggregated by {getattr(aggregation, '__name__', aggregation)}, not by mean"
        elif higher.get(metric) is False:
            reason = "is better when it is lower"
        elif outside := [value for value in trial.get(metric, ()) if not is_score(value)]:
            reason = f"scores an item {outside[0]!r}"
        if reason is None:
            return str(metric)
        reasons.append(f"{metric!r} {reason}")
    raise UsageError(
        f"benchmark {task.config.task!r} has no metric that is a mean of item scores between 0 and 1: "
        f"{'; '.join(reasons) or 'it declares none'}; {_CURE}"
    )


def is_score(value: Any) -> bool:
    """Whether a value is a number between 0 and 1 (rounding errors aside)."""
    import numpy as np

    return isinstance(value, (Real, np.bool_)) and -_ROUNDING <= float(value) <= 1 + _ROUNDING


def item_score(scores: Mapping[str, Any], metric: str, benchmark: str, doc_id: int) -> float:
    """An item's score by the task's metric.

    Args:
        scores: metric -> value, of the item.
        metric: the one that scores the task.
        benchmark: the task's name.
        doc_id: the item.

    Raises:
        UsageError: the value is missing, no number, or outside 0 to 1.
    """
    value = scores.get(metric)
    if not is_score(value):
        raise UsageError(
            f"benchmark {benchmark!r}: its metric {metric!r} scores item {doc_id} {value!r}, not from 0 to 1; {_CURE}"
        )
    return min(1.0, max(0.0, float(value)))  # type: ignore[arg-type]


def _trial_scores(task: Any) -> dict[str, list[Any]]:
    """Metric -> the scores of the first item's gold answer and of an empty one; empty where nothing was tried."""
    if task.config.process_results is None and set(task.aggregation()) <= _SHARES:
        return {}
    document = next(iter(task.eval_docs))
    scores: dict[str, list[Any]] = {}
    for results in _trial_answers(task, document):
        try:
            for metric, value in task.process_results(document, results).items():
                scores.setdefault(metric, []).append(value)
        except _TASK_ERRORS:  # its own code may not take these answers; the run's are checked, too
            continue
    return scores


def _trial_answers(task: Any, document: Any) -> list[list[Any]]:
    """What a model might have answered, as lm-eval hands it to `process_results`."""
    if task.OUTPUT_TYPE == "generate_until":
        return [[str(task.doc_to_target(document))], [""]]
    if task.OUTPUT_TYPE == "multiple_choice":
        return [[(-1.0 - i, i == 0) for i in range(len(task.doc_to_choice(document)))]]
    return [[(-1.0, True)]] if task.OUTPUT_TYPE == "loglikelihood" else []
