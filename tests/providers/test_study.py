"""Swapping the LLM in a study, through the command line and the real SDK, against a server on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Warm

RUN = [
    "run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu",
    "--only", "interpret", "--provider", "openai:some-model",
]  # fmt: skip


def in_the_papers_form(body: dict[str, Any], answer: Any) -> Any:
    """Answer each of the three prompts of appendix B."""
    prompt = body["messages"][-1]["content"]
    if "identify high-level functional role categories" in prompt:
        names = ("tokens", "contexts", "spare_1", "spare_2", "spare_3")
        found = [{"string_id": n, "name": n.title(), "definition": "Some of them.", "examples": []} for n in names]
        return answer(text=json.dumps({"categories": found, "summary": "two"}))
    if "Reply with ONLY the category string_id" in prompt:
        return answer(text="tokens")
    return answer()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_another_provider_runs_only_the_interpretation_pays_once_and_leaves_no_key(
    vendor: Any, answer: Any, canary: str, warm: Warm, tiny_study: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_study, tmp_path, dirs_exist_ok=True)
    vendor.choose = lambda body: in_the_papers_form(body, answer)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = warm.run(*RUN, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    stages = {line.split()[1].split("/")[0] for line in done.stderr.splitlines() if line.split()[:1] == ["done"]}
    assert stages == {"interpret", "score", "regrade", "cover", "categorise", "recategorise"}, "nothing else runs again"
    with sqlite3.connect(tmp_path / "results.db") as connection:
        connection.execute("CREATE TEMP VIEW asked AS SELECT * FROM explanation WHERE interpreter = 'autointerp'")
        ((explained, graded),) = connection.execute("SELECT count(*), count(grade) FROM asked").fetchall()
        calls = connection.execute("SELECT count(*) FROM llm_call WHERE status = 'ok'").fetchone()[0]
        assigned = connection.execute("SELECT DISTINCT category FROM category_assignment").fetchall()
        dead = connection.execute("SELECT count(*) FROM asked WHERE reason LIKE 'dead%'").fetchone()[0]
    assert explained == graded + dead > 300
    assert calls == len(vendor.seen), "every request that was sent is in the journal, once"
    assert ("tokens",) in assigned
    other_setting = ["--set", "autointerp.repair_turns=0"]  # another key, so the steps run again; no new request
    again = warm.run(*RUN, *other_setting, cwd=tmp_path, env=env)
    assert again.returncode == 0, again.stderr
    said = [line.split()[:2] for line in again.stderr.splitlines()]
    for step in ("train/rank1-lora", "probe/adapter-activations", "probe/mlp-neurons", "probe/random-directions"):
        assert ["reused", step] in said
    assert ["done", "interpret/autointerp/adapter-activations"] in said
    assert calls == len(vendor.seen), "steps that run again replay the journal and send nothing"
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert canary.encode() not in file.read_bytes(), file
    assert canary not in done.stdout + done.stderr
