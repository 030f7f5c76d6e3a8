"""Generation: study settings win over the task's, every end is recorded, budgets are forced as s1 does it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.benchmarks.answerer import InMemory
from harness.benchmarks.decode import make_stop
from harness.benchmarks.evaluate import evaluate
from harness.benchmarks.generation import Completion, Sampling, Thinking, write_within_budget
from harness.benchmarks.lm import SubjectLM
from harness.contract.settings import EvaluateConfig
from harness.errors import UsageError
from harness.model.chat import ChatFormat
from harness.model.marks import CHATML
from harness.model.subject import Subject, load_subject
from harness.records import ModelRef
from harness.testing import tiny_model
from tests.benchmarks.sums import write_sums

CHAT = ChatFormat(**vars(CHATML))


class Words:
    """A writer that says a script, a word being a token; it keeps what it was asked."""

    def __init__(self, *script: str) -> None:
        self.script, self.asked = list(script), []  # type: ignore[var-annotated]

    def write(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        done = []
        for prompt in prompts:
            self.asked.append((prompt, sampling))
            words = self.script.pop(0).split()
            kept = words[: sampling.max_tokens]
            done.append(Completion(" ".join(kept), "length" if len(kept) < len(words) else "stop", len(kept)))
        return done


ASK = Sampling(max_tokens=20, stop=("<|im_end|>",))


def test_a_trace_that_ends_in_time_is_followed_by_the_answer() -> None:
    writer = Words("one two", "Answer: 3")
    (done,) = write_within_budget(writer, ["Q\n"], ASK, [0], CHAT, Thinking(10))
    assert done.text == "<|im_start|>think\none two\n<|im_start|>answer\nAnswer: 3"
    assert done == Completion(done.text, "stop", 4)
    (prompt, first), (_, last) = writer.asked
    assert prompt == "Q\n<|im_start|>think\n"
    assert first.max_tokens == 10
    assert "<|im_start|>answer" in first.stop
    assert last.max_tokens == 10


def test_a_trace_over_the_budget_is_closed_and_its_answer_asked_for() -> None:
    writer = Words("a b c d e", "3")
    (done,) = write_within_budget(writer, ["Q\n"], ASK, [0], CHAT, Thinking(3, waits=2))
    assert done.text == "<|im_start|>think\na b c\n<|im_start|>answer\nFinal Answer:3"
    assert done.n_tokens == 4


def test_an_early_end_is_continued_with_wait_within_the_budget() -> None:
    writer = Words("a b", "c d e f", "3")
    (done,) = write_within_budget(writer, ["Q\n"], ASK, [0], CHAT, Thinking(5, waits=2))
    assert done.text == "<|im_start|>think\na b\nWaitc d e\n<|im_start|>answer\nFinal Answer:3"
    assert writer.asked[1][1].max_tokens == 3


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    base: ModelRef = tiny_model(tmp_path_factory.mktemp("base"))
    return load_subject(base, CHAT)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("tasks"), 5)


def settings(tasks: Path, **more: object) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"task_paths": (str(tasks),), **more})


def test_how_each_answer_ended_is_kept(bare: Subject, tasks: Path) -> None:
    short = evaluate(InMemory(bare), "sums", variant="base", settings=settings(tasks, max_gen_toks=3))
    for sample in short.samples:
        assert sample.n_tokens is not None
        assert (sample.finish == "length") == (sample.n_tokens == 3 and not _ended(bare, sample.response, 3))
    end = bare.tokenizer.eos_token_id
    silent = replace(bare, model=_always(bare, end))
    try:
        ended = evaluate(InMemory(silent), "sums", variant="base", settings=settings(tasks))
    finally:
        silent.model.lm_head.bias = None
    assert [(s.response, s.finish, s.n_tokens) for s in ended.samples] == [("", "stop", 1)] * 5


@pytest.mark.parametrize("n_filled", [0, 3])
def test_filling_behind_a_stop_string_is_not_counted(bare: Subject, n_filled: int) -> None:
    lm, stop = SubjectLM(bare, settings=EvaluateConfig()), make_stop(bare.tokenizer, ["Therefore"])
    written = bare.tokenizer.encode("so. Therefore")
    done = lm._completed([*written, *[stop.ids[0]] * n_filled], Sampling(50, ("Therefore",)), stop)
    assert done == Completion("so. ", "stop", len(written))


def _ended(subject: Subject, response: str, most: int) -> bool:
    return len(subject.tokenizer.encode(response, add_special_tokens=False)) < most


def _always(subject: Subject, token: int):  # type: ignore[no-untyped-def]
    """The model with a bias that makes one token certain."""
    import torch

    bias = torch.zeros(subject.model.config.vocab_size)
    bias[token] = 1e6
    subject.model.lm_head.bias = torch.nn.Parameter(bias)
    return subject.model


def test_repeats_override_the_task_and_are_reproducible(bare: Subject, tasks: Path) -> None:
    config = settings(tasks, repeats=3, temperature=1.0, limit=2)
    one = evaluate(InMemory(bare), "sums", variant="base", settings=config, seed=4)
    assert [(s.doc_id, s.repeat) for s in one.samples] == [(d, r) for d in range(2) for r in range(3)]
    assert len({s.response for s in one.samples}) > 2
    assert one.samples == evaluate(InMemory(bare), "sums", variant="base", settings=config, seed=4).samples
    assert one.samples != evaluate(InMemory(bare), "sums", variant="base", settings=config, seed=5).samples


def test_repeats_of_greedy_answers_are_refused() -> None:
    with pytest.raises(ValidationError, match="copies"):
        EvaluateConfig(repeats=4, temperature=0)


def test_budget_forcing_through_lm_eval(bare: Subject, tasks: Path) -> None:
    result = evaluate(
        InMemory(bare), "sums", variant="base", settings=settings(tasks, thinking_tokens=5, max_gen_toks=12)
    )
    for sample in result.samples:
        assert sample.response.startswith(CHAT.think_header)
        assert CHAT.answer_header in sample.response
        assert sample.n_tokens is not None
        assert sample.n_tokens <= 12
    with pytest.raises(UsageError, match="thinking_tokens=12"):
        evaluate(InMemory(bare), "sums", variant="base", settings=settings(tasks, thinking_tokens=12))


def test_a_local_file_takes_the_place_of_a_hub_data_set(bare: Subject, shared_data: Path) -> None:
    rows = shared_data / "aime24/aime24_test.jsonl"
    config = EvaluateConfig(data={"aime24_nofigures": str(rows)}, limit=2, max_gen_toks=4)
    big = replace(bare)
    big.model.config.max_position_embeddings = 4096
    try:
        result = evaluate(InMemory(big), "aime24_nofigures", variant="base", settings=config)
    finally:
        big.model.config.max_position_embeddings = 512
    first = json.loads(rows.read_text().splitlines()[0])
    assert first["problem"][:60] in result.samples[0].prompt
    assert [s.finish for s in result.samples] == ["length", "length"]
    assert [s.extracted for s in result.samples] == [None, None]
