"""Benchmarks on held-out traces: their loss, and whether answers open a trace; and who may train on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.answerer import InMemory
from harness.benchmarks.evaluate import evaluate
from harness.benchmarks.opening import Opening
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError
from harness.model.chat import ChatFormat
from harness.model.loss import response_losses
from harness.model.subject import Subject, load_subject
from harness.model.traces import held_out_ids
from harness.testing import tiny_adapter, tiny_model, tiny_traces

TRACES = tiny_traces(5)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    base = tiny_model(tmp_path_factory.mktemp("base"))
    return load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path_factory.mktemp("adapter")))


def test_the_loss_is_a_benchmark_with_an_item_per_document(adapted: Subject) -> None:
    result = evaluate(InMemory(adapted), "trace_loss", variant="adapter", traces=TRACES)
    losses = response_losses(adapted, TRACES)
    assert (result.item, result.unit, result.n_items) == ("adapter/trace_loss", "nats", 5)
    assert [s.score for s in result.samples] == [loss.nats for loss in losses]
    assert result.score == pytest.approx(sum(loss.nats for loss in losses) / 5)
    off = evaluate(InMemory(adapted, adapted.components), "trace_loss", variant="without-all", traces=TRACES)
    assert off.score != result.score


def test_a_file_takes_the_place_of_held_out_traces(adapted: Subject, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps({**t.model_dump(mode="json"), "spans": {}}) + "\n" for t in TRACES[:2]))
    settings = EvaluateConfig(benchmarks=("trace_loss",), data={"trace_loss": str(file)})
    assert not settings.reads_held_out
    assert evaluate(InMemory(adapted), "trace_loss", variant="adapter", settings=settings).n_items == 2


def test_without_traces_both_say_so(adapted: Subject) -> None:
    for name in ("trace_loss", "opens_trace"):
        with pytest.raises(DataError, match=f"{name} needs held-out traces"):
            evaluate(InMemory(adapted), name, variant="adapter")


@pytest.mark.parametrize(
    ("response", "header", "opens"),
    [
        ("<|im_start|>think\nWait, so", "<|im_start|>think\n", True),
        ("\n<|im_start|>think", "<|im_start|>think\n", True),
        ("think\nWait, so", "<|im_start|>think\n", True),
        ("think about it: 6", "<|im_start|>think\n", False),
        ("The answer is 6. <|im_start|>think", "<|im_start|>think\n", False),
        ("", "<|im_start|>think\n", False),
        ("<think>\nFirst", "<think>\n", True),
        ("First", "<think>\n", False),
    ],
)
def test_an_answer_opens_a_trace_with_the_formats_own_header(response: str, header: str, opens: bool) -> None:
    assert (Opening(header).extract(response) is not None) == opens


def test_opening_is_a_share_of_answers_to_the_traces_questions(adapted: Subject) -> None:
    result = evaluate(InMemory(adapted), "opens_trace", variant="adapter", traces=TRACES)
    assert (result.unit, result.n_items) == ("share", 5)
    assert all(t.question in s.prompt for t, s in zip(TRACES, result.samples, strict=True))
    assert all(s.n_tokens is not None and s.n_tokens <= 16 for s in result.samples)
    first = {s.response[:3] for s in result.samples}
    header = next(iter(first)).strip() or "x"
    opening: Any = Subject(**{**adapted.__dict__, "chat": ChatFormat(think_header=header).resolved(adapted.tokenizer)})
    own = evaluate(InMemory(opening), "opens_trace", variant="adapter", traces=TRACES)
    expected = [float(s.response.lstrip().startswith(header)) for s in own.samples]
    assert [s.score for s in own.samples] == expected
    assert 1.0 in expected or header == "x"


def test_held_out_ids_depend_on_the_ids_alone() -> None:
    ids = [f"t{i}" for i in range(200)]
    out = held_out_ids(ids)
    assert out == held_out_ids(reversed(ids))
    assert out & set(ids[:100]) == held_out_ids(ids[:100])
    assert 8 <= len(out) <= 34  # 20 expected, 3.3 standard deviations of 4.2
    assert out < held_out_ids(ids, 0.3)
    assert len(held_out_ids(["a", "b"], 0.999)) == len(held_out_ids(["a", "b"], 0.001)) == 1
    with pytest.raises(DataError, match="two documents or more"):
        held_out_ids(["a"])
