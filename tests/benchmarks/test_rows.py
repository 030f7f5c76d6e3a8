"""Benchmark data row by row: what is read, what is read as text, and what is refused by its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.catalogue import check_data, load_task
from harness.benchmarks.rows import placed_rows, typed_dataset
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{text}"
doc_to_target: "{target}"
generation_kwargs: {{until: ["."], max_gen_toks: 8}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOICE = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: options
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
GOOD = {"question": "how many legs has a spider?", "answer": "8"}


def write(folder: Path, rows: list[Any], text: str = "{{question}}", target: str = "{{answer}}") -> Path:
    """A task `mine` over these rows."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(TASK.format(name="mine", text=text, target=target))
    return folder


def targets(folder: Path, name: str = "mine") -> list[Any]:
    task = load_task(name, [folder])
    return [task.doc_to_target(document) for document in task.test_docs()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n[1]\n', "row 2 is not a JSON object"), (b'{"a": 1}\n\n{"a": \n', "row 3: it is not JSON"),
        (b"", "holds no rows"), (b"\n \n", "holds no rows"),
    ],
)  # fmt: skip
def test_files_that_hold_no_rows_are_refused_by_row(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"rows\.jsonl.*{message}"):
        typed_dataset(placed_rows(file), str(file))


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_a_gold_answer_that_is_no_finite_number_is_refused_by_row(number: str, tmp_path: Path) -> None:
    folder = write(tmp_path, [{**GOOD, "answer": 8.5}])
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write(f'{{"question": "and an ant?", "answer": {number}}}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: row 2 has no gold answer.*'answer'"):
        load_task("mine", [folder])


@pytest.mark.parametrize("entrance", ["task", "data"])
@pytest.mark.parametrize(
    ("bad", "field"),
    [({"question": "q"}, "answer"), ({"question": "q", "answer": None}, "answer"), ({"answer": "8"}, "question"),
     ({"question": None, "answer": "8"}, "question"), ({"question": "q", "answer": "  "}, "answer"),
     ({"question": "", "answer": "8"}, "question")],
)  # fmt: skip
@pytest.mark.parametrize("templates", [("{{question}}", "{{answer}}"), ("question", "answer"),
                                       ("Q: {{question}}?", "{{answer | trim}}")])  # fmt: skip
def test_a_row_without_question_or_gold_answer_is_refused(
    bad: dict[str, Any], field: str, templates: tuple[str, str], entrance: str, tmp_path: Path
) -> None:
    write(tmp_path, [GOOD, GOOD, bad, GOOD], *templates)
    data = {"mine": str(tmp_path / "rows.jsonl")} if entrance == "data" else {}
    with pytest.raises(DataError, match=rf"rows\.jsonl: row 3 has no .*'{field}'"):
        check_data(EvaluateConfig(benchmarks=("mine",), task_paths=(str(tmp_path),), data=data))


def test_a_field_that_a_template_can_do_without_may_be_null(tmp_path: Path) -> None:
    text = "{% if context %}{{context}} {% endif %}{{question}}"
    folder = write(tmp_path, [{**GOOD, "context": None}, {**GOOD, "context": "think."}, GOOD], text)
    task = load_task("mine", [folder])
    assert [task.doc_to_text(document)[:6] for document in task.test_docs()] == ["how ma", "think.", "how ma"]


@pytest.mark.parametrize(
    ("values", "read"),
    [(["8", 7, 6.5], ["8", "7", "6.5"]), ([7, "8"], ["7", "8"]), ([7, 8], [7, 8]), ([2**70, 1], [str(2**70), "1"])],
)
def test_numbers_among_texts_are_read_as_text(values: list[Any], read: list[Any], tmp_path: Path) -> None:
    folder = write(tmp_path, [{"question": "q", "answer": value} for value in values], target="answer")
    assert targets(folder) == read


@pytest.mark.parametrize(
    "values", [["8", ["8"]], [["8"], "8"], ["8", {"a": 1}], ["8", True], [1, 1.5], [{"a": 1}, {"a": []}], [["a"], [[]]]]
)
def test_other_mixtures_of_types_are_refused_by_row_and_field(values: list[Any], tmp_path: Path) -> None:
    folder = write(tmp_path, [{"question": "q", "answer": value} for value in values], target="answer")
    with pytest.raises(DataError, match=r"row 2: the field 'answer.*row 1 it is"):
        load_task("mine", [folder])


def test_fields_that_no_template_names_may_be_missing_and_mixed(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": 1}, {**GOOD, "id": "two", "note": {"by": 3}}, {**GOOD, "note": {"by": "me", "at": [1, "x"]}}]
    documents = list(load_task("mine", [write(tmp_path, rows)]).test_docs())
    assert [d["id"] for d in documents] == ["1", "two", None]
    assert [d["note"]["by"] for d in documents[1:]] == ["3", "me"]


@pytest.mark.parametrize("gold", [3, -1, "z", "2", None])
def test_a_gold_answer_that_is_no_choice_is_refused_by_row(gold: Any, tmp_path: Path) -> None:
    row = {"question": "which?", "options": ["a", "b", "c"], "gold": 1 if gold != "z" and gold != "2" else "b"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "gold": gold}) + "\n")
    (tmp_path / "pick.yaml").write_text(CHOICE)
    with pytest.raises(DataError, match=r"rows\.jsonl: row 2"):
        load_task("pick", [tmp_path])


def test_a_text_that_lm_eval_would_read_as_a_list_is_refused(tmp_path: Path) -> None:
    rows = [GOOD, {"question": "an interval?", "answer": "[1, 2]"}]
    folder = write(tmp_path, rows)
    with pytest.raises(DataError, match=r"row 2: the gold answer \[1, 2\] is a list, and the first row's is a single"):
        load_task("mine", [folder])
    assert (
        targets(write(tmp_path, [GOOD, {"question": "an interval?", "answer": "[1, 2]"}], target="answer"))[1]
        == "[1, 2]"
    )


@pytest.mark.parametrize(
    ("name", "row"),
    [("math500", {"problem": "1 + 1?", "answer": "2"}), ("gsm8k_cot", {"question": "1 + 1?", "answer": "so #### 2"}),
     ("aime24_nofigures", {"problem": "1 + 1?", "answer": "2"}),
     ("gpqa_diamond", {"Question": "q", "Correct Answer": "a", **{f"Incorrect Answer {i}": "b" for i in (1, 2, 3)}})],
)  # fmt: skip
def test_shipped_benchmarks_refuse_incomplete_rows(name: str, row: dict[str, str], tmp_path: Path) -> None:
    for field in row:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, [row, {**row, field: None}])))
        with pytest.raises(DataError, match=rf"rows\.jsonl.*row 2 .*'{field}'"):
            load_task(name, data={name: str(file)})


def test_parquet_rows_are_checked_too(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"problem": "1 + 1?", "answer": "2"}, {"problem": "2?", "answer": None}]).to_parquet(
        tmp_path / "rows.parquet"
    )
    with pytest.raises(DataError, match=r"rows\.parquet: row 2 has no gold answer"):
        load_task("math500", data={"math500": str(tmp_path / "rows.parquet")})
