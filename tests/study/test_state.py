"""What the steps of a run share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import harness.model.subject
from harness.records import Checkpoint
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.state import RunState
from harness.testing import tiny_adapter, tiny_model


def test_the_base_loads_once_for_base_and_adapters_and_again_after_a_full_fine_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_model(tmp_path / "base")
    first, second = (tiny_adapter(base, tmp_path / f"rank{rank}", rank=rank) for rank in (1, 2))
    full = Checkpoint(kind="full", path=Path(base.path), base=base, chat_hash="", n_parameters=0, n_examples=0)
    registry = read_registry(find_registry(None))
    manager = Manager(registry)
    plan = make_plan(registry, manager, "rank1-lora", settings={"model": {"path": base.path}})
    state = RunState(plan, manager, {}, stored=lambda step, record_class: [])
    loads: list[Any] = []
    load = harness.model.subject.load_base

    def counted(*args: Any) -> Any:
        loads.append(args)
        return load(*args)

    monkeypatch.setattr(harness.model.subject, "load_base", counted)

    for checkpoint, n_components, n_loads in (
        (None, 0, 1), (first, 14, 1), (second, 28, 1), (second, 28, 1), (None, 0, 1), (full, 0, 2), (first, 14, 3),
    ):  # fmt: skip
        subject = state.subject(checkpoint, "cpu")
        assert (len(subject.components), len(loads)) == (n_components, n_loads)
        assert subject.checkpoint == checkpoint
