"""A kind of step is one file in `harness.study.steps`: it is planned, priced, set, run, stored and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

STEP = '''
"""Score the answer that most traces have: what a model gets by always giving that one."""

from collections import Counter

from harness.config import Config
from harness.records import EvaluationResult
from harness.study.costs import Cost
from harness.study.planner import StageSteps, StepKind


class ConstantConfig(Config):
    """Which constant answers are scored."""

    ranks: int = 1
    """How many of the most common answers."""


def plan(planner):
    config = planner.study.settings(ConstantConfig)
    planner.add("constant/traces", CONSTANT, None, config, (), planner.data)


def execute(step, state, run):
    answers = Counter(trace.answer for trace in state.traces())
    for rank, (answer, n) in enumerate(answers.most_common(step.config.ranks)):
        yield EvaluationResult(
            item=f"constant-{rank}/traces", variant=f"constant-{rank}", benchmark="traces", n_items=answers.total(),
            score=n / answers.total(), samples=(), chat_hash="none", engine="counting",
        )


CONSTANT = StepKind("constant", "evaluate", execute, cost=lambda step, model: Cost(disk_bytes=64e9), in_worker=True)
STEPS = StageSteps((CONSTANT,), plan, {"constant": ConstantConfig})
'''

REGISTRY = """
version: 1
default_study: s
plugins:
  - {name: rank1-lora, stage: train, module: harness_plugins.trainers.rank1_lora}
studies:
  s:
    summary: the organism
    model: {path: package://harness/organism/checkpoint}
    data: {path: package://harness/organism/data/traces.jsonl, trace: trace, answer: answer, limit: 50}
    adapter: rank1-lora
    constant: {ranks: 2}
"""

COMMAND = """
import sys
import harness.study.steps
harness.study.steps.__path__.append(sys.argv[1])  # as if the file lay in the package's folder
from harness.cli import main
main(sys.argv[2:])
"""

Harness = Callable[..., str]


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """Run a command with one more module of steps; return what it prints."""
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / "constant.py").write_text(STEP)
    (tmp_path / "registry.yaml").write_text(REGISTRY)

    def run(*args: str) -> str:
        command = [sys.executable, "-c", COMMAND, str(folder), *args]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def test_a_kind_of_step_is_one_file(harness: Harness) -> None:
    assert "How many of the most common answers." in harness("plugins", "show", "s")
    planned = harness("run", "--plugin", "s", "--only", "evaluate", "--dry-run")
    (line,) = [line for line in planned.splitlines() if "constant/traces" in line]
    assert "64.0GB" in line, "it is priced"
    assert "train/rank1-lora" not in planned, "it needs no adapter"
    assert "done        constant/traces" in harness("run", "--plugin", "s", "--only", "evaluate")
    assert "everything is done" in harness("run", "--plugin", "s", "--only", "evaluate")
    stored = json.loads(
        harness("sql", "--format", "json", "SELECT variant, n_items, score FROM v_evaluation WHERE run_id = 1")
    )
    assert [(row["variant"], row["n_items"]) for row in stored] == [("constant-0", 50), ("constant-1", 50)]
    assert stored[0]["score"] >= stored[1]["score"] > 0
    assert "1 of 1 steps to do" in harness(
        "run", "--plugin", "s", "--only", "evaluate", "--set", "constant.ranks=1", "--dry-run"
    )
