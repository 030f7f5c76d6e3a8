"""Ablated variants that share batches answer what each answers alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks import lm, together
from harness.benchmarks.answerer import Answerer, InMemory, answerers
from harness.benchmarks.evaluate import evaluate
from harness.model.components import Component
from harness.model.subject import Subject
from harness.records import Sample
from harness.stages import EvaluateConfig, RunContext
from harness.testing import tiny_traces

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": t.question, "answer": t.answer} for t in tiny_traces(6)]
    (folder / "sums.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (folder / "sums.yaml").write_text(TASK)
    return folder


@pytest.fixture
def offs(tiny_subject: Subject) -> list[Sequence[Component]]:
    """Nothing, everything, a block and a single component."""
    components = tiny_subject.components
    return [(), components, [c for c in components if c.block == "mlp"], components[:1]]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that is decoded."""
    sizes: list[int] = []
    decode = lm.greedy

    def counted(model: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(ids))
        return decode(model, ids, *rest)

    monkeypatch.setattr(lm, "greedy", counted)
    return sizes


def settings(tasks: Path, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(task_paths=(str(tasks),), batch_size=64, **changes)


def answers(variant: Answerer, config: EvaluateConfig) -> tuple[Sample, ...]:
    return evaluate(variant, "sums", variant="v", settings=config).samples


def test_they_answer_as_alone_in_one_batch(
    tiny_subject: Subject, offs: list[Sequence[Component]], tasks: Path, tmp_path: Path, batches: list[int]
) -> None:
    config = settings(tasks)
    alone = [answers(InMemory(tiny_subject, off), config) for off in offs]
    assert len({tuple(s.response for s in variant) for variant in alone}) == len(offs)
    batches.clear()
    found = answerers(tiny_subject, RunContext(tmp_path, seed=0, evaluate=config), offs)
    assert [answers(v, config) for v in found] == alone
    assert batches == [6 * len(offs)]
    assert not any(m._forward_hooks for m in tiny_subject.model.modules())


def test_the_order_in_which_they_are_asked_does_not_matter(
    tiny_subject: Subject, offs: list[Sequence[Component]], tasks: Path, tmp_path: Path
) -> None:
    config = settings(tasks, temperature=1.0)
    run = RunContext(tmp_path, seed=0, evaluate=config)
    first = [answers(v, config) for v in answerers(tiny_subject, run, offs)]
    again = [answers(v, config) for v in reversed(answerers(tiny_subject, run, offs))]
    assert again[::-1] == first


def test_what_would_be_many_batches_is_written_by_each(
    tiny_subject: Subject,
    offs: list[Sequence[Component]],
    tasks: Path,
    tmp_path: Path,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings(tasks)
    monkeypatch.setattr(together, "_BATCHES", 0)
    for variant in answerers(tiny_subject, RunContext(tmp_path, seed=0, evaluate=config), offs):
        answers(variant, config)
    assert batches == [6] * len(offs)


def test_a_thinking_budget_keeps_them_apart(
    tiny_subject: Subject, offs: list[Sequence[Component]], tasks: Path, tmp_path: Path
) -> None:
    config = settings(tasks, thinking_tokens=5)
    found = answerers(tiny_subject, RunContext(tmp_path, seed=0, evaluate=config), offs)
    for variant, off in zip(found, offs, strict=True):
        assert answers(variant, config) == answers(InMemory(tiny_subject, off), config)
