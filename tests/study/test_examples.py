"""A study's examples: cut once for all of its trainers, and refused before anything is trained."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DataError
from harness.study.examples import check_examples, study_traces
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.step import Plan

PARAGRAPHS = [f"a = {j}; b = a + {j % 7}; what is b." for j in range(40)]


def plan(folder: Path, adapter: int, full: int, cut: str = "none", **chat: Any) -> Plan:
    """The default study on twelve traces of forty paragraphs each, in LIMO's fields."""
    file = folder / "long.jsonl"
    rows = [
        {"id": f"t{i}", "question": f"what is {i}?", "solution": "\n\n".join(PARAGRAPHS), "answer": "9"}
        for i in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "data": {"path": str(file), "cut": cut},
        "rank1-lora": {"max_length": adapter},
        "full-finetune": {"max_length": full},
        "chat": chat,
    }
    registry = read_registry(find_registry(None))
    return make_plan(registry, Manager(registry), "rank1-lora", settings=settings)


def pending(p: Plan) -> list[str]:
    return [step.name for step in p.steps]


def test_without_a_cut_it_stops_before_training_and_says_what_to_do(tmp_path: Path) -> None:
    p = plan(tmp_path, adapter=5000, full=100)
    with pytest.raises(DataError, match=r"12 of 12 examples .* max_length=100 .*--set data\.cut=paragraphs"):
        check_examples(p, pending(p), study_traces(p))
    check_examples(p, [name for name in pending(p) if name != "train/full-finetune"], study_traces(p))


def test_both_trainers_see_what_fits_the_smaller_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    p = plan(tmp_path, adapter=150, full=100, cut="paragraphs")
    assert p.study.data.cut == "paragraphs:100"
    traces = study_traces(p)
    check_examples(p, pending(p), traces)
    assert all(set(t.trace.split("\n\n")) <= set(PARAGRAPHS) for t in traces)
    assert "12 of 12 traces were cut at paragraphs" in caplog.text
    assert all(t.n_tokens_whole is not None and t.n_tokens_whole > 150 for t in traces)


def test_the_cut_is_part_of_every_key_that_reads_the_text(tmp_path: Path) -> None:
    keys = [{s.name: s.key for s in plan(tmp_path, 150, full, "paragraphs").steps} for full in (100, 120, 200)]
    # another smallest max_length cuts the adapter's examples, too; one that is not the smallest does not
    assert len({k["train/rank1-lora"] for k in keys}) == 3
    assert (
        plan(tmp_path, 150, 200, "paragraphs").study.data.cut == plan(tmp_path, 150, 160, "paragraphs").study.data.cut
    )
    assert plan(tmp_path, 150, 100, "paragraphs:64").study.data.cut == "paragraphs:64"


def test_marks_that_are_no_single_tokens_are_named_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    p = plan(tmp_path, 5000, 5000, think_header="<think>\n")
    check_examples(p, pending(p), study_traces(p)[:1])
    assert "no single token for <think>" in caplog.text
    assert "--set chat.think_header=TEXT" in caplog.text
