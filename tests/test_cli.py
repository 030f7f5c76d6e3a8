"""The command line, as a user meets it: exit codes, sentences, formats. The whole study runs in test_study.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Warm, command_environment

Harness = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def harness(warm: Warm) -> Harness:
    """Run the command line in a folder, without API keys."""

    def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return warm.run(*args, cwd=cwd, env={**command_environment(), **env})

    return run


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--plugin", "rank-1-lora"], ["no study or plugin 'rank-1-lora'", "'rank1-lora'"]),
        (["run", "--plugin", "rank1-lora", "--preset", "dmo"], ["no preset", "'demo'"]),
        (["run", "--plugin", "rank1-lora", "--set", "rank1-lora.epoch=1"], ["no key of rank1-lora", "'epochs'"]),
        (["run", "--plugin", "rank1-lora", "--set", "rank1-lora.rank=-1"], ["rank1-lora.rank=-1"]),
        (["run", "--plugin", "rank1-lora", "--set", "nonsense"], ["NAME.KEY=VALUE"]),
        (["run", "--plugin", "rank1-lora", "--only", "trian"], ["no stage 'trian'", "'train'"]),
        pytest.param(
            ["run", "--plugin", "rank1-lora", "--set", "evaluate.benchmarks=[organism_chian]"],
            ["no benchmark 'organism_chian'", "'organism_chain'"],
            marks=pytest.mark.slow,  # lm-eval reads the YAML of its fourteen thousand tasks
        ),
        (["run", "--plugin", "rank1-lora", "--provider", "opnai"], ["no provider 'opnai'", "'openai'"]),
        (["report", "recvery"], ["no report 'recvery'", "'recovery'"]),
        (["plugins", "show", "batch-tpok"], ["'batch-topk'"]),
        (["--registry", "gone.yaml", "plugins"], ["--registry: no file gone.yaml"]),
        (["run"], ["Missing option '--plugin'"]),
    ],
)
def test_a_users_mistake_exits_2_with_one_sentence(
    harness: Harness, tmp_path: Path, args: list[str], words: list[str]
) -> None:
    done = harness(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_a_registry_with_a_fault_names_file_line_and_field(harness: Harness, tmp_path: Path) -> None:
    registry = Path(__file__).parents[1].joinpath("registry.yaml").read_text()
    (tmp_path / "registry.yaml").write_text(registry.replace("stage: probe", "stag: probe", 1))
    done = harness("plugins", cwd=tmp_path)
    assert done.returncode == 2
    assert "registry.yaml:" in done.stderr
    assert "stag" in done.stderr


def test_a_broken_observer_is_named_and_takes_nothing_down(harness: Harness, tmp_path: Path) -> None:
    registry = Path(__file__).parents[1].joinpath("registry.yaml").read_text()
    row = "observers: [{name: timing, module: my_package.timing}]\n\nstudies:"
    (tmp_path / "registry.yaml").write_text(registry.replace("studies:", row, 1))
    sentence = "'timing' (registry: my_package.timing) cannot be loaded: no module 'my_package'"
    listed = harness("plugins", cwd=tmp_path, COLUMNS="200")
    assert listed.returncode == 0, listed.stderr
    assert sentence in listed.stdout
    assert "rank1-lora" in listed.stdout
    checked = harness("doctor", cwd=tmp_path)
    assert checked.returncode == 1
    assert sentence in checked.stdout
    planned = harness("run", "--plugin", "rank1-lora", "--dry-run", cwd=tmp_path, COLUMNS="200")
    assert planned.returncode == 0
    assert sentence in planned.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.path=gone.jsonl"], ["gone.jsonl"]),
        (["data.path=empty.jsonl"], ["empty.jsonl", "holds no rows"]),
        (["data.path=bad.jsonl"], ["bad.jsonl", "row 2"]),
        (["data.path=other.jsonl"], ["row 1", "question"]),
        (["model.path=./gone"], ["no model folder"]),
        (["model.path=./hollow"], ["hollow", "no weights"]),
    ],
)
def test_bad_input_is_named_and_ends_the_run_with_1(
    harness: Harness, tmp_path: Path, settings: list[str], words: list[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "trace": "t", "answer": "a"}\nnot json\n')
    (tmp_path / "other.jsonl").write_text('{"prompt": "q"}\n')
    checkpoint = Path(__file__).parents[1] / "harness" / "organism" / "checkpoint"
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    for file in checkpoint.iterdir():
        if file.suffix != ".safetensors":
            (hollow / file.name).write_bytes(file.read_bytes())
    pairs = [part for setting in settings for part in ("--set", setting)]
    done = harness("run", "--plugin", "rank1-lora", "--only", "train", *pairs, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_a_database_is_refused_and_left_alone(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "results.db").write_text("my shopping list, which is not a database at all")
    done = harness("run", "--plugin", "rank1-lora", cwd=tmp_path)
    assert done.returncode == 1
    assert "not a database" in done.stderr
    assert "shopping" in (tmp_path / "results.db").read_text()


def test_two_plugins_in_one_run_are_refused(harness: Harness, tmp_path: Path) -> None:
    done = harness("run", "--plugin", "rank1-lora", "--plugin", "pca", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "(rank1-lora, pca)" in done.stderr


def test_a_missing_api_key_is_named_before_anything_is_trained(harness: Harness, tmp_path: Path) -> None:
    asked = ("--plugin", "rank1-lora", "--preset", "tiny", "--provider", "openai:gpt-5-mini")
    done = harness("run", *asked, cwd=tmp_path, OPENAI_API_KEY="")
    assert done.returncode == 1
    assert "OPENAI_API_KEY" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "train/" not in done.stdout + done.stderr
    assert "Traceback" in harness("--debug", "run", *asked, cwd=tmp_path, OPENAI_API_KEY="").stderr
    assert harness("run", *asked, "--dry-run", cwd=tmp_path, OPENAI_API_KEY="").returncode == 0


def test_an_interpreter_without_an_llm_is_said_before_anything_is_trained(harness: Harness, tmp_path: Path) -> None:
    registry = Path(__file__).parents[1].joinpath("registry.yaml").read_text()
    assert "    interpreters: [lexical]" in registry
    (tmp_path / "registry.yaml").write_text(registry.replace("interpreters: [lexical]", "interpreters: [autointerp]"))
    done = harness("run", "--plugin", "rank1-lora", "--preset", "tiny", cwd=tmp_path)
    assert done.returncode == 2
    assert "--provider NAME:MODEL" in done.stderr.splitlines()[-1]
    assert "train/" not in done.stdout + done.stderr
    assert harness("run", "--plugin", "rank1-lora", "--dry-run", cwd=tmp_path).returncode == 0


def test_the_plan_is_printed_without_running_anything(harness: Harness, tmp_path: Path) -> None:
    done = harness("run", "--plugin", "rank1-lora", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train/rank1-lora" in done.stdout
    assert "to do" in done.stdout
    assert "FLOP" in done.stdout
    assert not (tmp_path / "artifacts").exists()


def test_doctor_says_yes_or_no_and_never_a_key(harness: Harness, tmp_path: Path) -> None:
    done = harness("doctor", cwd=tmp_path, OPENAI_API_KEY="sk-canary-123")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert "present: yes" in done.stdout
    assert "present: no" in done.stdout
    assert "torch" in done.stdout


def test_every_command_has_help(harness: Harness, tmp_path: Path) -> None:
    for command in (["run"], ["plugins"], ["plugins", "show"], ["report"], ["db"], ["db", "upgrade"], ["doctor"]):
        done = harness(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "Usage: harness" in done.stdout
    assert "Examples:" in harness("run", "--help", cwd=tmp_path).stdout


def test_an_interrupt_inside_executed_text_still_ends_with_130(tmp_path: Path) -> None:
    """Libraries make dataclasses by exec while they load; CPython would end such a process with the signal itself."""
    module = "import click\nfrom harness import cli\n"
    module += "@cli.cli.command()\ndef stop():\n    exec('raise KeyboardInterrupt')\ncli.main(['stop'])\n"
    (tmp_path / "stopped.py").write_text(module)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "stopped"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "interrupted" in done.stderr


def test_the_papers_run_is_planned_offline(harness: Harness, tmp_path: Path) -> None:
    settings = ["model.path=Qwen/Qwen2.5-32B-Instruct", "data.path=simplescaling/s1K-1.1"]
    settings += ["evaluate.benchmarks=[aime24_nofigures,math500,gpqa_diamond]"]
    args = [part for pair in settings for part in ("--set", pair)]
    command = ["run", "--plugin", "rank1-lora", *args, "--provider", "openai:gpt-5-mini", "--dry-run"]
    done = harness(*command, cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    (whole,) = [line.split() for line in done.stdout.splitlines() if "total to do" in line]
    assert whole[-1].startswith("$")
    assert "…" not in done.stdout
