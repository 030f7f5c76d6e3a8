"""Names of tasks: files with `include` and `!function`, data beside them, settings that reach them, groups and tags."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.benchmarks.catalogue import check_benchmarks, list_benchmarks, load_task
from harness.errors import DataError, HarnessError, UnknownName, UsageError
from tests.benchmarks.sums import write_sums

INCLUDED = "include: sums.yaml\ntask: sums_again\n"
FUNCTION = INCLUDED.replace("again", "by_code") + "process_docs: !function code.backwards\n"
GROUPS = {
    "flat": "group: flat\ntask: [sums, sums_again]\n",
    "nested": "group: nested\ntask:\n  - flat\n  - {group: inner, task: [sums_by_code]}\n",
    "one_inline": "group: one_inline\ntask:\n  - sums\n  - {task: sums_inline, dataset_path: json}\n",
    "with_lm_evals": "group: with_lm_evals\ntask: [sums, gsm8k]\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks that include another, name a function, and share a tag; and groups of them."""
    write_sums(tmp_path, 5)
    (tmp_path / "again.yaml").write_text(INCLUDED + "tag: [arithmetic]\n")
    (tmp_path / "by_code.yaml").write_text(FUNCTION + "tag: [arithmetic]\n")
    (tmp_path / "code.py").write_text("def backwards(documents):\n    return documents.select(range(4, -1, -1))\n")
    for name, text in GROUPS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def questions(name: str, folder: Path, **settings: object) -> list[str]:
    task = load_task(name, [folder], **settings)  # type: ignore[arg-type]
    return [document["question"] for document in task.test_docs()]


def test_data_are_found_beside_a_task_that_includes_or_names_a_function(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "sums.jsonl").write_text(json.dumps({"question": "not this one", "answer": "1"}))
    monkeypatch.chdir(elsewhere)
    asked = questions("sums", folder)
    assert len(asked) == 5
    assert questions("sums_again", folder) == asked
    assert questions("sums_by_code", folder) == asked[::-1]


def test_data_are_found_beside_the_file_that_is_included(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.yaml").write_text("include: ../sums.yaml\ntask: deep\n")
    assert questions("deep", folder / "sub") == questions("sums", folder)


def test_settings_reach_tasks_with_include_and_functions(folder: Path) -> None:
    (folder / "other.jsonl").write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in "abcde"))
    for name in ("sums", "sums_again"):
        assert questions(name, folder, data={name: str(folder / "other.jsonl")}) == list("abcde")
    assert questions("sums_by_code", folder, data={"sums_by_code": str(folder / "other.jsonl")}) == list("edcba")
    task = load_task("sums_again", [folder], repeats=3)
    assert task.config.repeats == 3
    assert task.config.filter_list[0]["filter"][-1] == {"function": "take_first_k", "k": 3}


@pytest.mark.parametrize(
    ("name", "said", "tasks"),
    [
        ("flat", "'flat' is a group of 2 tasks", ["sums", "sums_again"]),
        ("nested", "'nested' is a group of 3 tasks", ["sums", "sums_again", "sums_by_code"]),
        ("arithmetic", "'arithmetic' is a group of 2 tasks", ["sums_again", "sums_by_code"]),
        ("one_inline", r"give sums_inline a YAML file of its own", ["sums"]),
        ("with_lm_evals", "'with_lm_evals' is a group of 2 tasks", ["gsm8k", "sums"]),
    ],
)  # fmt: skip
def test_groups_and_tags_are_refused_with_the_setting_that_names_their_tasks(
    name: str, said: str, tasks: list[str], folder: Path
) -> None:
    for refuse in (check_benchmarks, lambda names, paths: load_task(names[0], paths)):
        with pytest.raises(UsageError, match=said) as refused:
            refuse([name], [folder])
        assert f"--set 'evaluate.benchmarks=[{','.join(tasks)}]'" in str(refused.value)
    check_benchmarks(tasks, [folder])


def test_groups_are_not_listed_as_benchmarks(folder: Path) -> None:
    assert {"sums", "sums_again", "sums_by_code"} <= set(list_benchmarks([folder]))
    assert not {"flat", "nested", "arithmetic"} & set(list_benchmarks([folder]))


def test_lm_evals_own_groups_and_tasks(folder: Path, shared_data: Path) -> None:
    with pytest.raises(UsageError, match=r"'mmlu' is a group of 57 tasks.*mmlu_world_religions\]'"):
        check_benchmarks(["mmlu"], [folder])
    task = load_task("gsm8k", [folder], data={"gsm8k": str(shared_data / "gsm8k/test.jsonl")}, repeats=2)
    assert len(task.test_docs()) == 1319
    assert task.config.repeats == 2


def test_an_unknown_name_tells_of_files_that_could_not_be_read(folder: Path) -> None:
    (folder / "broken.yaml").write_text("task: broken\n  doc_to_text: [")
    shutil.copy(folder / "again.yaml", folder / "short.yml")
    with pytest.raises(UnknownName, match=r"no benchmark 'broken'.*broken\.yaml.*short\.yml"):
        check_benchmarks(["broken"], [folder])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("process_docs: !function code.gone\n", "cannot be loaded: AttributeError"),
        ("process_docs: !function nowhere.gone\n", "cannot be loaded: ImportError"),
        ("test_split: dev\n", r"names no data file for its split 'dev' \(it has: test\)"),
        ("unsafe_code: true\n", "executes code that the model writes"),
        ("doc_to_image: question\n", "images or sound"),
    ],
)
def test_tasks_that_cannot_be_run_are_refused_in_a_sentence(lines: str, message: str, folder: Path) -> None:
    (folder / "odd.yaml").write_text(f"include: sums.yaml\ntask: odd\n{lines}")
    with pytest.raises(HarnessError, match=rf"{message}") as refused:
        load_task("odd", [folder])
    assert isinstance(refused.value, DataError | UsageError)
