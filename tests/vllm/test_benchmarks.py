"""Benchmarks through vLLM: the answers of the hf backend, from one engine for base, adapter and ablated adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file

from harness.benchmarks.answerer import Answerer, InMemory
from harness.benchmarks.engine import Engines
from harness.benchmarks.evaluate import evaluate
from harness.benchmarks.served import Served, serve, serve_subject
from harness.contract.context import RunContext
from harness.contract.progress import SilentProgress
from harness.contract.settings import EngineConfig, EvaluateConfig
from harness.errors import ModelError, UsageError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.organism import MODEL
from harness.records import Checkpoint, EvaluationResult, ModelRef
from harness.testing import tiny_adapter, tiny_traces

pytestmark = pytest.mark.timeout(600)
BASE, CHAT = ModelRef(path=str(MODEL)), ChatFormat()
BENCHMARKS = ("organism_chain", "organism_long", "organism_choice")
AGREEMENT = 0.99
"""Of greedy answers with the hf backend's. Kernels round differently, and a near tie may turn."""
CHOICES = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: 1
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    """One engine for all tests here."""
    made = Engines(EngineConfig(enforce_eager=True))
    yield made
    made.close()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_adapter(BASE, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def subject(adapter: Checkpoint) -> Subject:
    return load_subject(BASE, CHAT, adapter)


def ask(answerer: Answerer, benchmark: str = "organism_chain", seed: int = 0, **settings: Any) -> EvaluationResult:
    return evaluate(answerer, benchmark, variant="v", settings=EvaluateConfig(**settings), seed=seed)


def agreement(one: EvaluationResult, other: EvaluationResult) -> list[bool]:
    """Per item: the same text (vLLM may end before half a character), end, length and score."""
    assert [s.prompt_hash for s in one.samples] == [s.prompt_hash for s in other.samples]
    return [
        (a.response.rstrip("\ufffd"), a.finish, a.n_tokens, a.score)
        == (b.response.rstrip("\ufffd"), b.finish, b.n_tokens, b.score)
        for a, b in zip(one.samples, other.samples, strict=True)
    ]


def test_greedy_answers_are_those_of_hf(
    engines: Engines, adapter: Checkpoint, subject: Subject, tmp_path: Path, record_property: Any
) -> None:
    mlp = [c for c in subject.components if c.block == "mlp"]
    run = RunContext(tmp_path, seed=0, evaluate=EvaluateConfig(backend="vllm"), engines=engines)
    pairs: list[tuple[Answerer, Answerer]] = [
        (serve(engines, BASE, CHAT), InMemory(load_subject(BASE, CHAT))),
        (serve(engines, BASE, CHAT, adapter), InMemory(subject)),
        (serve_subject(subject, run, mlp), InMemory(subject, mlp)),
    ]
    same, results = [], []
    for benchmark in BENCHMARKS:
        for served, loaded in pairs:
            ours, theirs = ask(served, benchmark), ask(loaded, benchmark)
            same += agreement(ours, theirs)
            results.append(ours)
            assert ours.n_bound == theirs.n_bound
    record_property("agreement", f"{sum(same)} of {len(same)}")
    assert len(same) == 9 * 200
    assert sum(same) / len(same) >= AGREEMENT, f"{sum(same)} of {len(same)}"
    base, adapted, without = ([s.response for s in r.samples] for r in results[:3])
    assert base != adapted != without != base, "three variants, not one"
    assert {r.n_bound for r in results} == {None, 28}
    (engine,) = {r.engine for r in results}
    assert engine.startswith("vllm ")
    assert "float32 tp=1 dp=1 attention=" in engine
    assert " eager " in engine


@pytest.mark.parametrize("rank", [2, 3])
def test_slices_of_a_rank_are_switched_off_as_by_the_tap(engines: Engines, rank: int, tmp_path: Path) -> None:
    wide = load_subject(BASE, CHAT, tiny_adapter(BASE, tmp_path / "adapter", rank=rank))
    run = RunContext(tmp_path, seed=0, evaluate=EvaluateConfig(backend="vllm"), engines=engines)
    off = [c for c in wide.components if c.rank_index == 0]
    ours, theirs = ask(serve_subject(wide, run, off), limit=50), ask(InMemory(wide, off), limit=50)
    assert sum(agreement(ours, theirs)) >= 49
    assert not all(agreement(ours, ask(InMemory(wide), limit=50)))


def test_likelihoods_choose_as_hf_does(engines: Engines, adapter: Checkpoint, subject: Subject, tmp_path: Path) -> None:
    rows = [{"question": f"a = {i}; what is a?", "options": [str(i % 10), str(7 * i % 10)]} for i in range(60)]
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (tmp_path / "pick.yaml").write_text(CHOICES)
    ours = ask(serve(engines, BASE, CHAT, adapter), "pick", task_paths=(str(tmp_path),))
    theirs = ask(InMemory(subject), "pick", task_paths=(str(tmp_path),))
    assert sum(agreement(ours, theirs)) >= 59
    chosen = [row["options"].index(s.response) for row, s in zip(rows, ours.samples, strict=True)]
    assert set(chosen) == {0, 1}


def test_likelihoods_are_those_of_hf(engines: Engines, adapter: Checkpoint, subject: Subject) -> None:
    prompts = [CHAT.prompt(subject.tokenizer, t.question) + "First" for t in tiny_traces(3)]
    ends = [end for i in range(len(subject.tokenizer)) if (end := subject.tokenizer.decode([i])).strip()]
    requests = [Instance("loglikelihood", {}, (p, end), i) for i, p in enumerate(prompts) for end in ends]
    settings, found = EvaluateConfig(), []
    for answerer in (serve(engines, BASE, CHAT, adapter), InMemory(subject)):
        with answerer.answering(settings, 0, SilentProgress()) as lm:
            found.append(lm.loglikelihood(requests))  # type: ignore[attr-defined]
    ours, theirs = found
    assert [g for _, g in ours] == [g for _, g in theirs]
    assert {g for _, g in ours} == {True, False}
    assert max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True)) < 1e-3


def test_samples_are_seeded_by_document_and_repeat(engines: Engines, adapter: Checkpoint) -> None:
    served = serve(engines, BASE, CHAT, adapter)
    one = ask(served, repeats=4, temperature=1.0, limit=8, seed=3)
    assert [(s.doc_id, s.repeat) for s in one.samples] == [(d, r) for d in range(8) for r in range(4)]
    assert all(len({s.response for s in one.samples[4 * d : 4 * d + 4]}) > 1 for d in range(8)), "no copies"
    fewer = ask(served, repeats=4, temperature=1.0, limit=3, seed=3)
    assert fewer.samples == one.samples[:12], "what else is asked does not matter"
    assert ask(served, repeats=4, temperature=1.0, limit=8, seed=4).samples != one.samples


def test_budgets_are_forced_as_with_hf(engines: Engines, adapter: Checkpoint, subject: Subject) -> None:
    settings = {"thinking_tokens": 24, "thinking_waits": 1, "max_gen_toks": 64, "limit": 50}
    ours, theirs = (ask(a, **settings) for a in (serve(engines, BASE, CHAT, adapter), InMemory(subject)))
    assert sum(agreement(ours, theirs)) >= 49
    assert any("Final Answer:" in s.response for s in ours.samples)


def test_answers_end_with_the_context(engines: Engines) -> None:
    result = ask(serve(engines, BASE, CHAT), max_gen_toks=1000, limit=20)
    assert any(s.finish == "stop" for s in result.samples)
    assert all((s.n_tokens or 0) < 320 for s in result.samples)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [{"data_parallel_size": 2}, {"tensor_parallel_size": 2}])
def test_more_devices_give_the_same_answers(
    engines: Engines, adapter: Checkpoint, subject: Subject, parallel: dict[str, int]
) -> None:
    engines.close()
    several = Engines(EngineConfig(enforce_eager=True, **parallel))
    try:
        served = serve(several, BASE, CHAT, adapter)
        ours, theirs = ask(served, limit=50), ask(InMemory(subject), limit=50)
        sampled = ask(served, limit=4, repeats=3, temperature=1.0)
    finally:
        several.close()
    assert sum(agreement(ours, theirs)) >= 49
    assert ours.n_bound == 28
    assert len({s.response for s in sampled.samples}) > 4
    assert (
        " ".join(f"{k[0]}p={parallel.get(k, 1)}" for k in ("tensor_parallel_size", "data_parallel_size")) in ours.engine
    )


def test_an_idle_adapter_is_refused(engines: Engines, adapter: Checkpoint, tmp_path: Path) -> None:
    untrained = changed(adapter, tmp_path, lambda k, v: (k, v * 0 if "lora_B" in k else v))
    with pytest.raises(ModelError, match="binds 28 modules but does not change"):
        ask(serve(engines, BASE, CHAT, untrained))


def test_an_adapter_that_is_bound_in_part_is_refused(engines: Engines, adapter: Checkpoint, tmp_path: Path) -> None:
    stray = changed(adapter, tmp_path, lambda k, v: (k.replace("layers.3.mlp.up", "layers.9.mlp.up"), v))
    with pytest.raises(ModelError, match="has 28 modules and vLLM binds 27"):
        ask(serve(engines, BASE, CHAT, stray))


def test_a_rank_that_vllm_does_not_serve_is_refused_before_the_engine_stops(engines: Engines, tmp_path: Path) -> None:
    running = serve(engines, BASE, CHAT)
    wide = tiny_adapter(BASE, tmp_path, rank=600, target_modules=["down_proj"])
    with pytest.raises(ModelError, match=r"has rank 600, and vLLM serves at most 512; use --set evaluate\.backend=hf"):
        serve(engines, BASE, CHAT, wide)
    assert ask(running, limit=1).n_items == 1


def test_prompts_that_leave_no_room_and_models_that_cannot_be_served_are_refused(
    engines: Engines, adapter: Checkpoint, tmp_path: Path
) -> None:
    served = serve(engines, BASE, CHAT, adapter)
    with pytest.raises(UsageError, match=r"raise evaluate\.max_model_len"):
        ask(Served(served._engine, CHAT.model_copy(update={"system": "x " * 400}), "", served._tokenizer, None, True))
    engines.close()
    with pytest.raises(ModelError, match=r"vLLM cannot serve .*: .*max_model_len"):
        serve(Engines(EngineConfig(enforce_eager=True, max_model_len=100_000)), BASE, CHAT)


def changed(adapter: Checkpoint, folder: Path, change: Any) -> Checkpoint:
    """The adapter with each (key, tensor) changed, in a folder of its own."""
    weights = load_file(adapter.path / "adapter_model.safetensors")
    save_file(dict(change(k, v) for k, v in weights.items()), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes((adapter.path / "adapter_config.json").read_bytes())
    return adapter.model_copy(update={"path": folder})
