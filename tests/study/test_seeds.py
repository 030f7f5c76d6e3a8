"""Several training seeds: how they are written, what they share, and that one that fails stops no other."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.study.display import RunSummary
from harness.study.seeds import parse_numbers, run_seeds
from tests.commands import command_environment

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-4", (0, 1, 2, 3, 4)), ("0,3,7", (0, 3, 7)), ("7, 0-2", (7, 0, 1, 2)), ("3", (3,)), ("1-2,2-3", (1, 2, 3))],
)
def test_lists_and_ranges_name_each_number_once_in_their_order(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text, "--seeds") == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "0..4", "4-0", "0-99999999", "1,,2"])
def test_what_is_no_list_of_numbers_is_refused_with_an_example_or_the_cure(text: str) -> None:
    with pytest.raises(UsageError, match=r"write|more than") as caught:
        parse_numbers(text, "--seeds")
    assert "--seeds" in str(caught.value)


def test_a_seed_that_fails_does_not_stop_the_others_and_a_mistake_of_the_users_does() -> None:
    said: list[str] = []

    def run(seed: int) -> RunSummary:
        if seed == 1:
            raise HarnessError("the disk is full")
        if seed == 2:
            raise ZeroDivisionError("by a plugin")
        return RunSummary(seed + 10, 3, 0, 1.0)

    runs, failed = run_seeds([0, 1, 2, 3], run, said.append)
    assert {seed: summary.run_id for seed, summary in runs.items()} == {0: 10, 3: 13}
    assert failed == {1: "the disk is full", 2: "ZeroDivisionError: by a plugin"}
    assert [s for s in said if "of 4" in s] == [f"seed {n} ({n + 1} of 4)" for n in range(4)]

    def mistake(seed: int) -> RunSummary:
        raise UsageError("no such thing")

    with pytest.raises(UsageError):
        run_seeds([0, 1], mistake, said.append)
    with pytest.raises(KeyboardInterrupt):
        run_seeds([0, 1], _interrupted, said.append)


def _interrupted(seed: int) -> RunSummary:
    raise KeyboardInterrupt


OBSERVER = """
from pathlib import Path
from harness import hookimpl

@hookimpl(wrapper=True)
def harness_run_step(step, stage, execute):
    if stage == "train":
        seen = Path("trained")
        seen.write_text(seen.read_text() + "x" if seen.exists() else "x")
        if seen.read_text() == "xx":
            raise RuntimeError("power cut")
    return (yield)
"""
SMALL = ["--preset", "tiny", "--jobs", "1", "--device", "cpu", "--set", "data.limit=12", "--set", "rank1-lora.epochs=1"]


def harness(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *args]
    env = {**command_environment(), "PYTHONPATH": str(folder)}  # where the observer lies
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def column(folder: Path, sql: str) -> list[object]:
    with sqlite3.connect(folder / "results.db") as connection:
        return [row[0] for row in connection.execute(sql)]


def test_a_failed_seed_is_named_and_done_by_the_same_command_again(tmp_path: Path) -> None:
    (tmp_path / "cutting.py").write_text(OBSERVER)
    row = "observers: [{name: cutting, module: cutting}]\n\nstudies:"
    (tmp_path / "registry.yaml").write_text((ROOT / "registry.yaml").read_text().replace("studies:", row, 1))
    command = ["run", "--plugin", "adapter-activations", *SMALL, "--seeds", "0-2"]

    first = harness(tmp_path, *command)
    assert first.returncode == 1, first.stderr
    assert "seed 1 (2 of 3)" in first.stderr
    assert first.stderr.splitlines()[-1] == "seed 1 failed: RuntimeError: power cut"
    assert "2 seeds in runs 1,3 (see: harness report --across 1,3)" in first.stderr
    assert column(tmp_path, "SELECT seed FROM study_run ORDER BY id") == [0, 1, 2]
    assert set(column(tmp_path, "SELECT seeds FROM study_run")) == {"0-2"}

    again = harness(tmp_path, *command)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("everything is done") == 2, "seeds 0 and 2"
    assert "runs 4,5,6" in again.stderr
    assert column(tmp_path, "SELECT count(*) FROM step WHERE status = 'done'") == [6]
    assert len(set(column(tmp_path, "SELECT recipe FROM step"))) == 2, "a recipe per step, whatever the seed"


def test_what_depends_on_no_seed_is_done_once_also_by_force(tmp_path: Path) -> None:
    command = ["run", "--plugin", "mlp-neurons", *SMALL, "--seeds", "0,5"]
    planned = harness(tmp_path, *command, "--dry-run")
    assert "1 of 1 steps to do; 1 are shared by the seeds and counted once" in planned.stdout
    for options in ([], ["--force"]):
        done = harness(tmp_path, *command, *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("1 steps done, 0 reused") == 1
        assert done.stderr.count("everything is done: 1 steps") == 1
    assert column(tmp_path, "SELECT count(*) FROM step") == [1]
    assert column(tmp_path, "SELECT reused FROM run_step ORDER BY run_id") == [0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_seeds_of_the_whole_study_differ_where_they_should_and_nowhere_else(tmp_path: Path) -> None:
    command = ["run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu", "--seeds", "0,1"]
    done = harness(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    both = "SELECT DISTINCT {} FROM {} t JOIN run_step r ON r.step_id = t.step_id WHERE r.run_id = {}"

    def values(run: int, what: str, table: str) -> list[object]:
        return column(tmp_path, both.format(what, table, run))

    def files(run: int, step: str, pattern: str = "*.safetensors") -> list[bytes]:
        of_run = f"SELECT artifact FROM step s JOIN run_step r ON r.step_id = s.id WHERE r.run_id = {run}"
        (folder,) = column(tmp_path, f"{of_run} AND s.name = '{step}'")
        return [path.read_bytes() for path in sorted((tmp_path / "artifacts" / str(folder)).rglob(pattern))]

    for step in ("train/rank1-lora", "train/full-finetune", "learn/batch-topk", "learn/random-dictionary"):
        first, second = files(1, step), files(2, step)
        assert first, step
        assert not set(first) & set(second), f"{step} does not vary with the seed"
    assert files(1, "probe/random-directions", "*.values.npy") != files(2, "probe/random-directions", "*.values.npy")
    assert files(1, "probe/mlp-neurons", "*.values.npy") == files(2, "probe/mlp-neurons", "*.values.npy") != []
    items = (
        "SELECT DISTINCT e.benchmark || s.doc_id || s.prompt_hash FROM sample s JOIN evaluation e ON e.id = "
        "s.evaluation_id JOIN run_step r ON r.step_id = e.step_id WHERE r.run_id = {} ORDER BY 1"
    )
    assert column(tmp_path, items.format(1)) == column(tmp_path, items.format(2)) != []
    held_out = [values(run, "n_documents || '/' || n_tokens", "dictionary_score") for run in (1, 2)]
    assert held_out[0] == held_out[1] != []
    kls = [values(run, "document_n_tokens_json", "ablation_score") for run in (1, 2)]
    assert kls[0] != kls[1], "the documents of the ablations are drawn with the seed"

    shown = harness(tmp_path, "report", "--across", "1-2")
    assert shown.returncode == 0, shown.stderr
    assert "shared by all runs: evaluate/base, probe/mlp-neurons, interpret/lexical/mlp-neurons" in " ".join(
        shown.stdout.split()
    )
    refused = harness(tmp_path, "report", "--across", "1,1")
    assert refused.returncode == 0, "a run named twice is one run, and stands for its command"
    missing = harness(tmp_path, "report", "--across", "1-3")
    assert missing.returncode == 1
    assert "no run '3'" in missing.stderr


def test_seed_and_seeds_are_not_given_together(tmp_path: Path) -> None:
    done = harness(tmp_path, "run", "--plugin", "mlp-neurons", "--seed", "1", "--seeds", "0-1")
    assert done.returncode == 2
    assert "--seed and --seeds" in done.stderr
