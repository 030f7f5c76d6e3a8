"""`harness run --executor ray` writes the bytes that `harness run` writes, also where a worker is killed in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_tools import below, worker_processes
from safetensors.torch import load_file, save_file

from harness.testing import tiny_adapter, tiny_model

pytestmark = pytest.mark.timeout(900)
RAY = ("--executor", "ray", "--ray-workers", "2")
VOLATILE = {"id", "step_id", "run_id", "wall_s", "path", "started_at", "finished_at"}


ALL = ("probe", "learn", "ablate")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base and an adapter on it."""
    folder = tmp_path_factory.mktemp("models")
    tiny_adapter(tiny_model(folder / "base"), folder / "adapter")
    return folder


def study(models: Path, *stages: str) -> list[str]:
    """The study of the adapter: captures in several shards, a dictionary and its latents, sweeps."""
    settings = {
        "model.path": models / "base", "pretrained-adapter.path": models / "adapter",
        "features.documents": 48, "adapter-activations.shard_tokens": 500, "mlp-neurons.shard_tokens": 500,
        "evaluate.benchmarks": "[]", "batch-topk.steps": 20, "judging.ablated_latents": 1,
        "judging.second_fit": "false", "leave-one-out.n_documents": 3, "groups.n_documents": 3,
    }  # fmt: skip
    only = [x for stage in stages for x in ("--only", stage)]
    pairs = [x for name, value in settings.items() for x in ("--set", f"{name}={value}")]
    return ["run", "--plugin", "existing-adapter", "--device", "cpu", *only, *pairs]


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "harness.cli", *args]
    return subprocess.Popen(line, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(running: subprocess.Popen[str]) -> str:
    out, err = running.communicate(timeout=800)
    assert running.returncode == 0, err
    return out + err


def when_at_work(running: subprocess.Popen[str], then: Callable[[int], None]) -> None:
    """Call `then` with the process of the first worker that is seen at an item."""
    until = time.monotonic() + 600
    while running.poll() is None and time.monotonic() < until:
        for pid, title in worker_processes(running.pid).items():
            if title.startswith("ray::Worker.work"):
                then(pid)
                return
        time.sleep(0.005)
    running.kill()
    pytest.fail(f"no worker was seen at work:\n{running.communicate()[1][-3000:]}")


def written(folder: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """sha256 of every artefact but for training's notes of paths, and all rows of results but for times and paths."""
    files = {
        str(p.relative_to(folder / "artifacts")): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((folder / "artifacts").rglob("*"))
        if p.is_file()
    }
    tables = {}
    with sqlite3.connect(folder / "results.db") as connection:
        connection.row_factory = sqlite3.Row
        for table in ("activation_set", "feature", "exemplar", "dictionary", "ablation_score", "dictionary_score"):
            found = connection.execute(f"SELECT * FROM {table}").fetchall()
            tables[table] = sorted(str([(k, r[k]) for k in r.keys() if k not in VOLATILE]) for r in found)
    return files, tables


@pytest.fixture(scope="module")
def expected(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """What the run in one process writes."""
    folder = tmp_path_factory.mktemp("local")
    finish(start(folder, *study(models, *ALL)))
    files, tables = written(folder)
    assert sum("activations/shard" in name and name.endswith("values.npy") for name in files) > 20
    assert len(tables["ablation_score"]) > 40
    return files, tables


def test_a_run_whose_worker_is_killed_writes_the_same_bytes(
    models: Path, expected: tuple[Any, Any], tmp_path: Path
) -> None:
    running = start(tmp_path, *study(models, *ALL), *RAY)
    when_at_work(running, lambda pid: os.kill(pid, signal.SIGKILL))
    said = finish(running)
    assert "a worker died" in said
    files, tables = written(tmp_path)
    assert files == expected[0]
    assert tables == expected[1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process_and_goes_on_without_ray(
    models: Path, expected: tuple[Any, Any], tmp_path: Path, how: signal.Signals
) -> None:
    running = start(tmp_path, *study(models, *ALL), *RAY)
    processes: set[int] = set()

    def interrupt(_: int) -> None:
        processes.update(below(running.pid))
        running.send_signal(how)

    when_at_work(running, interrupt)
    _, err = running.communicate(timeout=300)
    if how == signal.SIGINT:
        assert running.returncode == 130, err
        assert err.splitlines()[-1] == "harness: interrupted; what is done is kept, run again to go on"
    assert running.returncode != 0
    assert "Traceback" not in err
    assert "***" not in err, "no native stack"
    until = time.monotonic() + 60
    while alive := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"still there: {alive}"
        time.sleep(0.05)
    finish(start(tmp_path, *study(models, *ALL)))
    assert written(tmp_path) == expected


def test_an_error_of_the_work_is_told_in_its_own_sentence(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models, broken)
    weights = load_file(broken / "base" / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")  # an adapter that is not finite would be refused when it is read
    save_file(weights, broken / "base" / "model.safetensors", {"format": "pt"})
    said = []
    for where in ((), RAY):
        running = start(tmp_path, *study(broken, "ablate"), *where)
        _, err = running.communicate(timeout=800)
        assert running.returncode == 1, err
        said.append([line for line in err.splitlines() if line.startswith("  failed: ablate/")])
    assert any(": the model's hidden states are not finite in document" in line for line in said[0])
    assert not any("Error: " in line for line in said[0]), "a library's own words"
    assert said[1] == said[0]
