"""The shipped tasks on real data: what is asked, what is gold, and what is said of data that do not fit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.catalogue import check_data, load_task
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError

ROWS = {"aime24_nofigures": "aime24/aime24_test.jsonl", "math500": "math500/math500_test.jsonl",
        "gsm8k_cot": "gsm8k/test.jsonl"}  # fmt: skip


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    """The rows as JSON Lines; returns the path."""
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.mark.parametrize(("name", "n"), [("aime24_nofigures", 30), ("math500", 500), ("gsm8k_cot", 1319)])
def test_a_local_file_gives_every_item_its_question_and_gold_answer(name: str, n: int, shared_data: Path) -> None:
    file = shared_data / ROWS[name]
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    task = load_task(name, data={name: str(file)})
    documents = list(task.test_docs())
    assert len(documents) == len(rows) == n
    for row, document in zip(rows, documents, strict=True):
        prompt, gold = task.doc_to_text(document), str(task.doc_to_target(document))
        question = row.get("problem") or row["question"]
        assert prompt.startswith(question.partition("[asy]")[0].strip())
        assert gold == str(row["answer"]).rpartition("####")[2].strip()
        assert "[asy]" not in prompt or name != "aime24_nofigures"


def questions(n: int = 200) -> list[dict[str, str]]:
    """Rows in GPQA's form."""
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    return [{"Question": f"Which of these, no. {i}?", "Correct Answer": "right", **wrong} for i in range(n)]


def test_options_are_shuffled_by_the_question_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "gpqa.jsonl", questions())
    documents = list(load_task("gpqa_diamond", data={"gpqa_diamond": file}).test_docs())
    for document in documents:
        options = dict(line.split(") ") for line in document["question"].splitlines() if line[1:3] == ") ")
        assert sorted(options) == list("ABCD")
        assert options[document["letter"]] == "right"
        assert len(set(options.values())) == 4
    counts = Counter(document["letter"] for document in documents)
    assert all(30 < counts[letter] < 70 for letter in "ABCD"), "the correct answer has no fixed place"
    backwards = write(tmp_path / "backwards.jsonl", questions()[::-1])
    again = list(load_task("gpqa_diamond", data={"gpqa_diamond": backwards}).test_docs())
    assert [d["question"] for d in again[::-1]] == [d["question"] for d in documents]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("math500", "'answer', 'problem'"), ("aime24_nofigures", "'answer', 'problem'"), ("gsm8k_cot", "'answer'"),
     ("gpqa_diamond", "'Correct Answer', 'Incorrect Answer 1'")],
)  # fmt: skip
def test_data_without_the_fields_are_refused_with_those_that_they_have(name: str, missing: str, tmp_path: Path) -> None:
    file = write(tmp_path / "other.jsonl", [{"question": "1 + 1?", "solution": "2"}])
    with pytest.raises(DataError, match=rf"'{name}': its rows lack the fields? {missing}.*have: question, solution\)"):
        load_task(name, data={name: file})


def test_a_task_of_ones_own_whose_template_names_another_field_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        'output_type: generate_until\ndoc_to_text: "{{quest}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(DataError, match=r"'mine': its rows lack a field .*'quest'"):
        load_task("mine", [tmp_path])


def test_data_are_looked_for_before_anything_runs(tmp_path: Path) -> None:
    check_data(EvaluateConfig(benchmarks=("organism_chain",)))
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        check_data(EvaluateConfig(benchmarks=("math500",), data={"math500": str(tmp_path / "gone.jsonl")}))
    with pytest.raises(DataError, match=r"MATH-500 cannot be loaded: the hub cannot be reached.*evaluate\.data="):
        check_data(EvaluateConfig(benchmarks=("organism_chain", "math500")))
