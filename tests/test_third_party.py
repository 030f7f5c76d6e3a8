"""A package outside the repository with an ablation, a record, a report and an observer of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.commands import command_environment

PACKAGE = Path(__file__).parent / "third_party" / "synergy"


def test_it_is_small() -> None:
    assert len((PACKAGE / "src" / "harness_synergy.py").read_text().splitlines()) <= 90


def test_its_record_its_report_and_its_observer_work_in_both_processes(tiny_study: Path, tmp_path: Path) -> None:
    folder, source = tmp_path / "study", tmp_path / "package"
    shutil.copytree(tiny_study, folder)
    shutil.copytree(PACKAGE, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)
    env = {**command_environment(), "PYTHONPATH": str(tmp_path / "site"), "HARNESS_JOBS": "2"}

    def harness(*arguments: str) -> str:
        command = [sys.executable, "-m", "harness.cli", *arguments]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    harness("run", "--plugin", "synergy", "--preset", "tiny", "--device", "cpu")
    rows = json.loads(harness("report", "synergy", "--format", "json"))
    assert [row["item"] for row in rows] == [f"layer:{i}" for i in range(len(rows))]
    for row in rows:
        assert row["both_ci_low"] <= row["both_nats"] <= row["both_ci_high"]
        assert row["attention_nats"] > 0
    assert "Attention and MLP together" in harness("report", "--all")
    harness("report", "--export", "out")
    assert json.loads((folder / "out" / "tables" / "synergy.json").read_text()) == rows
    schema = harness("db", "schema")
    assert "CREATE TABLE layer_synergy" in schema
    assert "VIEW v_layer_synergy" in schema.replace('"', "")
    times = [json.loads(line) for line in (folder / "step_times.jsonl").read_text().splitlines()]
    measured = {t["step"]: t for t in times}["ablate/synergy"]
    (step,) = (s for s in json.loads(harness("report", "steps", "--format", "json")) if s["step"] == "ablate/synergy")
    assert measured["stage"] == "ablate"
    assert 0.5 * step["wall_s"] <= measured["wall_s"] <= step["wall_s"]
