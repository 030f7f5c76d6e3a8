"""A study through vLLM, by the command line that users have."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)
RUN = ("run", "--plugin", "rank1-lora", "--preset", "tiny", "--only", "evaluate", "--only", "ablate", "--device", "cpu")
SETTINGS = (
    "evaluate.backend=vllm", "evaluate.enforce_eager=true", "rank1-lora.epochs=1", "full-finetune.epochs=1",
    "data.limit=32", "leave-one-out.method=fisher",
)  # fmt: skip


def harness(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return done


def test_a_study_evaluates_and_ablates_through_one_engine_after_the_other(tmp_path: Path) -> None:
    settings = [part for s in SETTINGS for part in ("--set", s)]
    harness(tmp_path, *RUN, *settings)
    with sqlite3.connect(tmp_path / "results.db") as db:
        found = db.execute("SELECT variant, engine, n_bound FROM evaluation").fetchall()
    assert {(variant, n) for variant, _, n in found} == {
        ("base", None), ("adapter", 28), ("full", None), ("without-attention", 28), ("without-mlp", 28),
    }  # fmt: skip
    assert len(found) == 5 * 3
    (engine,) = {engine for _, engine, _ in found}
    assert engine.startswith("vllm "), "the full fine-tune's engine is another one, and of the same kind"
    assert "Loading safetensors" not in (again := harness(tmp_path, *RUN, *settings)).stderr
    assert "everything is done" in again.stderr
    for section in ("recovery", "groups"):
        rows = json.loads(harness(tmp_path, "report", section, "--format", "json").stdout)
        assert rows
        assert not any(row["engines_differ"] for row in rows)
