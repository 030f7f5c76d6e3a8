"""Ablated variants that share batches answer what each answers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks import lm, together
from harness.benchmarks.answerer import Answerer, InMemory, answerers
from harness.benchmarks.decode import Stop, greedy
from harness.benchmarks.evaluate import evaluate
from harness.contract.context import RunContext
from harness.contract.settings import EvaluateConfig
from harness.model.components import Component
from harness.model.subject import Subject
from harness.model.taps import RowGates, ablate, component_sites, tap
from harness.records import Sample
from harness.testing import tiny_traces
from tests.benchmarks.sums import write_sums


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("tasks"), 6)


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


def test_rows_keep_their_own_gates_when_others_leave(tiny_subject: Subject, offs: list[Sequence[Component]]) -> None:
    model, tokenizer, components = tiny_subject.model, tiny_subject.tokenizer, tiny_subject.components
    tokenizer.padding_side = "left"
    texts = [tiny_subject.chat.prompt(tokenizer, t.question) for t in tiny_traces(6)]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask, sites = batch["input_ids"], batch["attention_mask"], component_sites(components)
    alone = []
    for off in offs:
        with tap(model, sites, ablate(components, off), read=False):
            alone += greedy(model, ids, mask, 30, Stop(())).tolist()
    # a token that some rows write early, and others late or never
    early = Counter(token for row in alone for token in set(row[:8]))
    end = next(token for token, n in early.most_common() if n <= len(alone) * 0.7)
    gates, stayed = RowGates(torch.stack([ablate(components, off).gates for off in offs for _ in texts])), []

    def leave(rows: torch.Tensor) -> None:
        stayed.append(len(rows))
        gates.keep(rows)

    n = len(offs)
    with tap(model, sites, gates, read=False):
        found = greedy(model, ids.repeat(n, 1), mask.repeat(n, 1), 30, Stop((end,)), leave).tolist()
    assert stayed, "no row left: this tests nothing"
    for ours, theirs in zip(found, alone, strict=True):
        at = theirs.index(end) if end in theirs else len(theirs)
        assert ours[:at] == theirs[: min(at, len(ours))]


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
