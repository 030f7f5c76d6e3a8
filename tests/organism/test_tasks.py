"""The lm-eval tasks: lm-eval accepts them, finds their data, and their filter takes the last answer."""

import json

import pytest

from harness.benchmarks.catalogue import load_task
from harness.benchmarks.tasks import task_configs, task_names
from harness.errors import UnknownName
from harness.organism import BENCHMARKS, DEV
from harness.organism.build_data import MAX_TOKENS


def test_a_task_for_each_benchmark() -> None:
    assert [name for name in task_names() if name.startswith("organism_")] == sorted(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_configuration(name) -> None:
    (config,) = task_configs([name])
    assert config["task"] == name
    assert config["dataset_kwargs"]["data_files"] == {"test": str(BENCHMARKS[name]), "dev": str(DEV[name])}
    assert config["generation_kwargs"]["max_gen_toks"] == MAX_TOKENS[name]
    assert task_configs([name], split="dev")[0]["test_split"] == "dev"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="organism_chain"):
        task_configs(["organism_chian"])
    with pytest.raises(UnknownName, match="dev"):
        task_configs(["organism_chain"], split="train")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_lm_eval_scores_the_last_answer(name) -> None:
    task = load_task(name)
    with BENCHMARKS[name].open(encoding="utf-8") as file:
        row = json.loads(next(file))
    documents = list(task.test_docs())
    assert len(documents) >= 200
    assert task.doc_to_text(documents[0]) == row["question"]
    assert task.doc_to_target(documents[0]) == row["answer"]
    wrong = "B" if row["answer"] == "A" else "A"
    if row["answer"].isdigit():
        wrong = str((int(row["answer"]) + 1) % 10)
    replies = {
        f"think\n{row['trace']}\nanswer\nAnswer: {row['answer']}": 1.0,
        f"Answer: {wrong}\nAnswer: {row['answer']}": 1.0,
        f"Answer: {row['answer']}\nAnswer: {wrong}": 0.0,
        row["trace"]: 0.0,
    }
    for reply, score in replies.items():
        (ensemble,) = task._filters
        value = [[reply]]
        for chosen in ensemble.filters:
            value = list(chosen().apply(value, [documents[0]]))
        assert task.process_results(documents[0], value)["exact_match"] == score, reply
