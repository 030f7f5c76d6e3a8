"""The whole study through the command line, at the `tiny` preset: run, run again, kill, resume."""

from __future__ import annotations

import json
import random
import resource
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

from tests.commands import Warm, command_environment
from tests.outcome import contents, files

HARNESS = [sys.executable, "-m", "harness.cli"]
RUN = ["run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu"]
SOURCES = {"adapter-activations", "mlp-neurons", "random-directions", "batch-topk", "batch-topk-on-random"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def harness(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [*HARNESS, *args]
    return subprocess.run(command, cwd=folder, env=command_environment(), capture_output=True, text=True, timeout=600)


Rows = Callable[[Path, str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rows(warm: Warm) -> Rows:
    """A section of the report of a folder's study, as JSON."""

    def read(folder: Path, section: str) -> list[dict[str, Any]]:
        done = warm.run("report", section, "--format", "json", cwd=folder, env=command_environment())
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    return read


@pytest.fixture(scope="module")
def study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study has run."""
    return Path(shutil.copytree(tiny_study, tmp_path_factory.mktemp("study") / "study"))


def _children_cpu_s() -> float:
    """CPU time of the processes that have ended: what a loaded machine stretches least."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_run_says_that_everything_is_done_and_takes_at_most_5_seconds(study: Path) -> None:
    began = _children_cpu_s()
    done = harness(study, "run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu")
    assert done.returncode == 0
    assert "everything is done" in done.stderr
    assert _children_cpu_s() - began < 5  # on a quiet machine wall time is less: it loads on two cores


def test_recovery_has_the_keys_that_scripts_rely_on(study: Path, rows: Rows) -> None:
    found = rows(study, "recovery")
    assert {r["benchmark"] for r in found} == {"organism_chain", "organism_long", "organism_choice"}
    for row in found:
        assert {
            "n_items",
            "base",
            "adapter",
            "full",
            "recovery",
            "recovery_ci_low",
            "recovery_ci_high",
            "p_value",
        } <= set(row)
        assert any(key.startswith("paper_") for key in row)
        assert row["n_items"] == 8


def test_components_have_a_row_per_cell_and_per_layer(study: Path, rows: Rows) -> None:
    found = rows(study, "components")
    keys = {"layer", "projection", "kl_nats", "kl_ci_low", "kl_ci_high", "n_tokens", "n_documents"}
    assert all(keys <= set(r) for r in found)
    cells = [r for r in found if r["scope"] == "component"]
    layers = [r for r in found if r["scope"] == "layer"]
    assert len(cells) == 4 * 7
    assert [r["layer"] for r in layers] == [0, 1, 2, 3]
    assert all(r["projection"] is None for r in layers)
    assert all(r["kl_nats"] >= 0 and r["kl_ci_low"] <= r["kl_nats"] <= r["kl_ci_high"] for r in found)


def test_dictionaries_features_categories_and_groups_have_their_keys(study: Path, rows: Rows) -> None:
    dictionary, control, *baselines = rows(study, "dictionaries")
    assert control["name"] == "batch-topk-on-random"
    assert control["kl_recovered"] is None
    assert "does not read the adapter" in control["reason"]
    names = ["frozen-decoder", "pca", "ica", "k-means", "random-dictionary", "identity"]
    assert [r["name"] for r in baselines] == names
    assert {"name", "n_latents", "n_alive", "k", "fvu", "l0", "kl_recovered"} <= set(dictionary)
    assert (dictionary["name"], dictionary["n_latents"]) == ("batch-topk", 28 * 8)
    for row in rows(study, "latents"):
        assert row["source"] == "batch-topk", "baselines are not explained unless asked"
        assert 0 <= row["kl_ci_low"] <= row["kl_nats"] <= row["kl_ci_high"]
    features = rows(study, "features")
    assert {r["source"] for r in features} == SOURCES
    for row in features:
        assert {"source", "feature", "explanation", "grade", "reason"} <= set(row)
        assert row["grade"] in (0, 1, 2, None)
        assert row["reason"], "a grade has a justification and its absence has a reason"
    groups = rows(study, "groups")
    assert {"attention", "mlp"} <= {r["group"] for r in groups}
    assert all({"group", "benchmark", "n_items", "score", "share_of_adapter_gap"} <= set(r) for r in groups)
    assert {r["source"] for r in rows(study, "categories")} == SOURCES


@pytest.mark.parametrize("form", ["table", "md", "latex"])
def test_every_report_prints_in_every_format(study: Path, warm: Warm, form: str) -> None:
    done = warm.run("report", "--format", form, cwd=study, env=command_environment())
    assert done.returncode == 0, done.stderr
    assert "organism_chain" in done.stdout.replace("\\_", "_")
    assert "\x1b" not in done.stdout, "a pipe gets no colours"


def test_the_adapter_loads_with_plain_peft(study: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from harness.organism import MODEL

    (folder,) = study.glob("artifacts/train-rank1-lora-*/adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), str(folder))
    assert sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) == 4864


def test_every_artefact_carries_the_hash_of_the_one_chat_format(study: Path) -> None:
    with sqlite3.connect(study / "results.db") as connection:
        hashes = {
            row[0]
            for table in ("checkpoint", "evaluation", "activation_set")
            for row in connection.execute(f"SELECT DISTINCT chat_hash FROM {table}")
        }
    assert len(hashes) == 1


def test_a_plugin_from_an_installed_package_runs_in_the_study(study: Path, rows: Rows, tmp_path: Path) -> None:
    site = tmp_path / "site"
    package = Path(__file__).parent / "third_party" / "depth"
    source = tmp_path / "package"
    subprocess.run(["cp", "-r", str(package), str(source)], check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    install = [sys.executable, "-m", "pip", "install", *options, str(source)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    command = [*HARNESS, "run", "--plugin", "depth-halves", "--preset", "tiny", "--device", "cpu"]
    env = {**command_environment(), "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=study, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1 steps done, 1 reused" in done.stderr, "the adapter that the study trained is reused"
    found = {r["group"]: r["kl_nats"] for r in rows(study, "groups")}
    assert set(found) == {"lower-half", "upper-half"}, "the latest run is the plugin's"
    assert all(kl > 0 for kl in found.values())


def test_a_run_killed_at_random_points_ends_with_the_same_results(study: Path, warm: Warm, tmp_path: Path) -> None:
    """One process did all of the study; here two share the steps, and both are killed."""
    rng = random.Random(20)
    together = {**command_environment(), "HARNESS_JOBS": "2"}
    statuses = []
    for _ in range(3):
        running = warm.start(*RUN, cwd=tmp_path, env=together)
        time.sleep(rng.uniform(2, 10))
        running.signal(signal.SIGKILL)
        statuses.append(running.wait(10))
    assert -signal.SIGKILL in statuses, "at least one run was killed"
    done = warm.run(*RUN, cwd=tmp_path, env=together, timeout_s=600)
    assert done.returncode == 0, done.stderr
    expected, found = contents(study), contents(tmp_path)
    for table in expected:
        if table in ("step", "ablation_score"):  # the plugin test may have added its own to the first folder
            assert set(found[table]) <= set(expected[table]), table
        else:
            assert found[table] == expected[table], table
    assert files(tmp_path) == files(study)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_cleanly_with_130_and_the_run_goes_on(warm: Warm, tmp_path: Path, jobs: str) -> None:
    running = warm.start(*RUN, cwd=tmp_path, env={**command_environment(), "HARNESS_JOBS": jobs})
    # in a later step all libraries are loaded: some, interrupted while they load, swallow it and fail in another way
    assert running.says("done        train/rank1-lora")
    running.signal(signal.SIGINT)
    code, stderr = running.wait(60), running.err.read_text()
    assert code == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    with sqlite3.connect(tmp_path / "results.db") as connection:
        assert connection.execute("SELECT status FROM study_run").fetchone() == ("interrupted",)
    assert warm.run(*RUN, "--only", "train", cwd=tmp_path, env=command_environment()).returncode == 0


def test_two_runs_on_one_file_share_the_work(warm: Warm, tmp_path: Path) -> None:
    running = [warm.start(*RUN, "--only", "train", cwd=tmp_path, env=command_environment()) for _ in range(2)]
    codes = [r.wait(300) for r in running]
    said = [r.err.read_text() for r in running]
    assert codes == [0, 0], said
    assert sum("2 steps done, 0 reused" in text for text in said) == 1
    assert sum("0 steps done, 2 reused" in text or "everything is done" in text for text in said) == 1
