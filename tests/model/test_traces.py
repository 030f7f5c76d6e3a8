"""Traces of a file: ids and answers that are plainly meant are read, every other fault names row, field and cure."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.errors import DataError, HarnessError, UsageError
from harness.model.chat import ChatFormat
from harness.model.folders import local_model
from harness.model.subject import Subject
from harness.model.traces import DataConfig, fingerprint, load_traces
from harness.records import Trace
from tests.test_rows import mutated

GOOD = {"question": "1 + 2?", "trace": "1 + 2 = 3.", "answer": "3"}


def load(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl", **settings: Any) -> list[Trace]:
    """The traces of a file with these rows."""
    path = folder / f"data.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_traces(DataConfig(path=str(path), **{"trace": "trace", "answer": "answer", **settings}))


def refusal(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl", **settings: Any) -> str:
    """The sentence about a file with these rows."""
    with pytest.raises(DataError) as caught:
        load(folder, rows, kind, **settings)
    assert f"data.{kind}: row " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ids", "read"),
    [
        ([None, None], ["0", "1"]),
        ([7, 8], ["7", "8"]),
        ([7.0, math.nan], ["7", "1"]),
        (["a", None], ["a", "1"]),
        (["07", "7"], ["07", "7"]),
    ],
)
def test_ids_are_texts_integers_or_the_rows_position(
    kind: str, ids: list[object], read: list[str], tmp_path: Path
) -> None:
    rows = [{**GOOD, "id": value} for value in ids]
    assert [t.id for t in load(tmp_path, rows, kind)] == read


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1, "1"], "row 2 repeats the id '1' of row 1; give every row an id of its own"),
        ([1, None], "row 2 has no id, and its position 1 is the id of row 1; give every row an id, or none"),
        ([True], "row 1, field 'id' is a truth value; write a text or an integer"),
        ([0.5], "row 1, field 'id' is a number;"),
        ([["a"]], "row 1, field 'id' is a list;"),
        ([" "], "row 1, field 'id' is empty;"),
    ],
)
def test_other_ids_are_refused_by_row(ids: list[object], said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, [{**GOOD, "id": value} for value in ids])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("answers", "read"), [(["3", "5"], ["3", "5"]), ([3, 5], ["3", "5"]), ([3.0, 0.5], ["3", "0.5"])]
)
def test_answers_may_be_numbers(kind: str, answers: list[object], read: list[str], tmp_path: Path) -> None:
    assert [t.answer for t in load(tmp_path, [{**GOOD, "answer": a} for a in answers], kind)] == read


@pytest.mark.parametrize("field", ["question", "trace", "answer"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is null"),
        (math.nan, "is null"),
        (" \n", "is empty"),
        (["a"], "is a list"),
        ({"text": "a"}, "is an object"),
        (False, "is a truth value"),
        (math.inf, "is a number"),
    ],
)
def test_a_field_without_text_is_refused_by_row_with_a_cure(
    field: str, value: object, said: str, tmp_path: Path
) -> None:
    sentence = refusal(tmp_path, [GOOD, {**GOOD, field: value}])
    assert f"row 2, field '{field}' {said}, not a text" in sentence
    assert f"name another field: --set data.{field}=FIELD" in sentence


def test_numbers_are_no_questions_and_no_traces(tmp_path: Path) -> None:
    assert "row 1, field 'question' is a number, not a text" in refusal(tmp_path, [{**GOOD, "question": 3}])
    assert "row 1, field 'trace' is a number, not a text" in refusal(tmp_path, [{**GOOD, "trace": 3}])


def test_a_missing_field_is_refused_by_row_and_a_null_is_not_replaced_by_another_field(tmp_path: Path) -> None:
    renamed = {"question": "1?", "deepseek_thinking_trajectory": "so 1", "deepseek_attempt": "1"}
    settings = {"trace": "deepseek_thinking_trajectory", "answer": "deepseek_attempt"}
    assert [t.trace for t in load(tmp_path, [renamed, GOOD], **settings)] == ["so 1", "1 + 2 = 3."]
    assert "row 2, there is no field 'question'; it has: trace, answer" in refusal(
        tmp_path, [GOOD, {k: v for k, v in GOOD.items() if k != "question"}]
    )
    null = {**GOOD, "deepseek_attempt": None}
    assert "row 2, field 'deepseek_attempt' is null" in refusal(tmp_path, [renamed, null], **settings)


def test_spans_that_are_not_spans_are_refused_by_row(tmp_path: Path) -> None:
    rows = [{**GOOD, "spans": {"trace": [[0, 1, "op"]], "answer": None}}]
    assert load(tmp_path, rows)[0].spans == {"trace": ((0, 1, "op"),)}
    assert "row 1, field spans" in refusal(tmp_path, [{**GOOD, "spans": {"trace": [["a", 1, "op"]]}}])
    assert "row 1, field spans" in refusal(tmp_path, [{**GOOD, "spans": "all"}])


def test_a_limit_of_no_rows_is_refused(tmp_path: Path) -> None:
    assert len(load(tmp_path, [GOOD, GOOD], limit=1)) == 1
    with pytest.raises(UsageError, match=r"data\.limit=0"):
        DataConfig.merged("data", {"path": "x.jsonl", "limit": 0})


@pytest.mark.parametrize("path", ["/nowhere/x", "./nowhere", "~no-such-user/x", "nowhere.parquet", "nowhere.jsonl.gz"])
def test_a_local_path_without_a_file_is_not_asked_of_the_hub(path: str) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: No such file or directory"):
        load_traces(DataConfig(path=path))


def test_a_model_path_of_an_unknown_user_is_a_sentence() -> None:
    with pytest.raises(HarnessError, match="no model folder"):
        local_model("~no-such-user/model")


def test_the_key_of_a_data_folder_depends_on_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    before = fingerprint(DataConfig(path=str(tmp_path)))
    (tmp_path / "train.jsonl").write_text("[]")
    assert fingerprint(DataConfig(path=str(tmp_path))) != before


def test_two_thousand_damaged_files_of_traces_are_read_or_refused_in_a_sentence(
    tmp_path: Path, tiny_subject: Subject
) -> None:
    rows = [{**GOOD, "id": i, "question": f"{i} × 2? 🧭", "spans": {"trace": [[0, 1, "op"]]}} for i in range(6)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path, n_read = tmp_path / "data.jsonl", 0
    for seed in range(2000):
        path.write_bytes(mutated(whole, random.Random(seed)))
        try:
            traces = load_traces(DataConfig(path=str(path), trace="trace", answer="answer"))
        except HarnessError as error:
            str(error).encode()
            continue
        n_read += 1
        ChatFormat().document(tiny_subject.tokenizer, traces[-1])
    assert 100 < n_read < 1900, "both outcomes must occur"
