"""Which metric scores a task, and tasks that none can score: refused by name before anything is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.answerer import InMemory
from harness.benchmarks.catalogue import check_data, load_task
from harness.benchmarks.evaluate import evaluate
from harness.benchmarks.metrics import choose_metric, item_score
from harness.contract.settings import EvaluateConfig
from harness.errors import UsageError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.testing import tiny_model

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
doc_to_text: "{{question}}"
"""
KINDS = {
    "generate_until": 'doc_to_target: "{{answer}}"\ngeneration_kwargs: {until: ["."], max_gen_toks: 4}\n',
    "loglikelihood": 'doc_to_target: " {{answer}}"\n',
    "loglikelihood_rolling": 'doc_to_target: "{{question}}"\n',
    "multiple_choice": 'doc_to_target: gold\ndoc_to_choice: ["two", "six", "eight"]\n',
}
ROWS = [{"question": f"how many legs has a {name}?", "answer": n, "gold": i}
        for name, n, i in (("hen", "two", 0), ("ant", "six", 1), ("spider", "eight", 2))]  # fmt: skip
CODE = """
def percent(doc, results):
    return {"percent": 100.0 if results[0] == doc["answer"] else 0.0}

def pair(doc, results):
    return {"pair": (1, results[0]), "share": 0.5}

def late(doc, results):
    # In [0, 1] for the answers that a trial gives; a model writes others.
    return {"late": {"": 0.0, doc["answer"]: 1.0}.get(results[0], 7.5)}

def strange(doc, results):
    raise ValueError("no such answer")

def middle(items):
    return sorted(items)[len(items) // 2]
"""


def mine(folder: Path, kind: str, metrics: str, *, code: str | None = None) -> Path:
    """A folder with the task `mine` of this kind and with these metrics."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "code.py").write_text(CODE)
    process = f"process_results: !function code.{code}\n" if code else ""
    text = f"{TASK}output_type: {kind}\n{KINDS[kind]}{process}metric_list: {metrics}\n"
    (folder / "mine.yaml").write_text(text)
    return folder


def listed(*metrics: str, aggregation: str = "mean", higher: bool = True) -> str:
    each = [f"{{metric: {m}, aggregation: {aggregation}, higher_is_better: {str(higher).lower()}}}" for m in metrics]
    return f"[{', '.join(each)}]"


def both(first: str, second: str) -> str:
    return f"[{first[1:-1]}, {second[1:-1]}]"


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(tiny_model(tmp_path_factory.mktemp("base")), ChatFormat())


class NeverAsked:
    """An answerer that fails the test where anything is generated."""

    chat_hash = engine = "none"

    def check(self) -> None:
        return None

    def answering(self, *args: Any) -> Any:
        pytest.fail("the model was asked")


REFUSED = {
    "perplexity": ("loglikelihood", listed("perplexity", aggregation="perplexity", higher=False), None),
    "mcc": ("multiple_choice", listed("mcc", aggregation="matthews_corrcoef"), None),
    "f1": ("multiple_choice", listed("f1", aggregation="f1"), None),
    "brier_score": ("multiple_choice", listed("brier_score", aggregation="brier_score", higher=False), None),
    "likelihood": ("multiple_choice", listed("likelihood"), None),
    "bleu": ("generate_until", listed("bleu", aggregation="bleu"), None),
    "chrf": ("generate_until", listed("chrf", aggregation="chrf"), None),
    "ter": ("generate_until", listed("ter", aggregation="ter", higher=False), None),
    "word_perplexity": ("loglikelihood_rolling",
                        listed("word_perplexity", aggregation="weighted_perplexity", higher=False), None),
    "bits_per_byte": ("loglikelihood_rolling",
                      listed("bits_per_byte", aggregation="bits_per_byte", higher=False), None),
    "percent": ("generate_until", listed("percent"), "percent"),
    "pair": ("generate_until", listed("pair"), "pair"),
    "exact_match": ("generate_until", listed("exact_match", higher=False), None),
    "acc": ("multiple_choice", listed("acc", aggregation="median"), None),
    "share": ("generate_until", listed("share", aggregation="!function code.middle"), "pair"),
}  # fmt: skip


@pytest.mark.parametrize("metric", REFUSED)
def test_what_is_no_mean_of_item_scores_is_refused_before_anything_is_asked(metric: str, tmp_path: Path) -> None:
    kind, metrics, code = REFUSED[metric]
    settings = EvaluateConfig(benchmarks=("mine",), task_paths=(str(mine(tmp_path, kind, metrics, code=code)),))
    for refuse in (lambda: check_data(settings),
                   lambda: evaluate(NeverAsked(), "mine", variant="base", settings=settings)):  # fmt: skip
        with pytest.raises(UsageError, match=rf"'mine' has no metric.*'{metric}' (is|scores).*evaluate\.task_paths"):
            refuse()


@pytest.mark.parametrize(
    ("kind", "metrics", "code", "chosen"),
    [
        ("loglikelihood", both(listed("perplexity", aggregation="perplexity"), listed("acc")), None, "acc"),
        ("multiple_choice", both(listed("mcc", aggregation="matthews_corrcoef"), listed("acc_norm", "acc")), None,
         "acc_norm"),
        ("generate_until", both(listed("bleu", aggregation="bleu"), listed("exact_match")), None, "exact_match"),
        ("generate_until", listed("pair", "share"), "pair", "share"),
        ("generate_until", listed("anything"), "strange", "anything"),
    ],
)  # fmt: skip
def test_the_first_metric_that_is_a_mean_of_scores_is_taken(
    kind: str, metrics: str, code: str | None, chosen: str, tmp_path: Path
) -> None:
    assert choose_metric(load_task("mine", [mine(tmp_path, kind, metrics, code=code)])) == chosen


def test_scores_are_those_of_the_metric_that_was_chosen(subject: Subject, tmp_path: Path) -> None:
    metrics = both(listed("perplexity", aggregation="perplexity", higher=False), listed("acc"))
    settings = EvaluateConfig(task_paths=(str(mine(tmp_path, "loglikelihood", metrics)),))
    result = evaluate(InMemory(subject), "mine", variant="base", settings=settings)
    assert {s.score for s in result.samples} <= {0.0, 1.0}
    assert result.score == sum(s.score for s in result.samples) / 3
    assert all((s.extracted == s.target) == bool(s.score) for s in result.samples)
    assert all("log-likelihood: -" in s.response for s in result.samples if not s.score)


def test_a_score_outside_0_to_1_ends_the_run_with_task_metric_and_item(subject: Subject, tmp_path: Path) -> None:
    settings = EvaluateConfig(task_paths=(str(mine(tmp_path, "generate_until", listed("late"), code="late")),))
    with pytest.raises(UsageError, match=r"'mine': its metric 'late' scores item 0 7\.5, not from 0 to 1"):
        evaluate(InMemory(subject), "mine", variant="base", settings=settings)


@pytest.mark.parametrize("value", [(1, 2), "1", None, float("nan"), float("inf"), -0.01, 1.01, [1.0], {"a": 1}])
def test_what_is_no_score(value: Any) -> None:
    with pytest.raises(UsageError, match=r"'t'.*'m' scores item 4"):
        item_score({"m": value}, "m", "t", 4)


def test_rounding_errors_are_no_fault() -> None:
    assert item_score({"m": 1.0000000002}, "m", "t", 0) == 1.0
    assert [item_score({"m": value}, "m", "t", 0) for value in (True, 0, 0.25)] == [1.0, 0.0, 0.25]
