"""s1K-1.1 as it really is: 100 of its rows, the real Qwen2.5 tokenizer, both renderings that the paper used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig, load_traces
from harness.records import Trace
from tests.rollouts import TURNS, rendered, write_rows

SYSTEM = "You are a helpful mathematics assistant."
PAPER_CODE = ChatFormat(template="unclosed", system=SYSTEM, answer_prefix="")


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """The rows as the paper's interpretation code rendered them."""
    made = rendered(shared_data)
    assert all(TURNS.fullmatch(text)["system"] == SYSTEM for text in made)
    return made


@pytest.fixture(scope="module")
def traces(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    """The rows, parsed back into their parts and read from a file with s1K-1.1's field names."""
    file = tmp_path_factory.mktemp("s1k") / "train.jsonl"
    write_rows(texts, file)
    return load_traces(DataConfig(path=str(file)))


def test_the_other_rendering_is_the_paper_codes_byte_for_byte(
    traces: list[Trace], texts: list[str], qwen25_tokenizer: Any
) -> None:
    assert len(traces) == 100
    for trace, text in zip(traces, texts, strict=True):
        assert PAPER_CODE.render(qwen25_tokenizer, trace).text == text


def test_the_training_text_is_s1s(traces: list[Trace], qwen25_tokenizer: Any) -> None:
    for trace in traces[:20]:
        text = ChatFormat().render(qwen25_tokenizer, trace).text
        assert text == (
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{trace.question}<|im_end|>\n<|im_start|>assistant\n"
            f"<|im_start|>think\n{trace.trace}\n<|im_start|>answer\nAnswer: {trace.answer}<|im_end|>"
        )


def test_supervision_begins_at_the_first_token_after_the_assistants_header(
    traces: list[Trace], qwen25_tokenizer: Any
) -> None:
    n_tokens = 0
    for trace in traces:
        document = ChatFormat().document(qwen25_tokenizer, trace)
        first = document.response_token
        ids = qwen25_tokenizer.convert_ids_to_tokens(list(document.ids[first - 3 : first + 2]))
        assert ids == ["<|im_start|>", "assistant", "Ċ", "<|im_start|>", "think"]
        assert qwen25_tokenizer.decode(document.ids[-1]) == "<|im_end|>"
        n_tokens += len(document.ids)
    assert n_tokens == pytest.approx(979_730, rel=0.01), "the other rendering's count: prompts differ by a few tokens"


def test_the_two_renderings_have_the_hashes_that_stored_results_name(qwen25_tokenizer: Any) -> None:
    assert ChatFormat().hash(qwen25_tokenizer) == "7f473c26385dfeb0ce0ad94a6f090f99da2d906af1a1061147509aad10f2efb7"
    assert PAPER_CODE.hash(qwen25_tokenizer) == "bdad0725f1ac2911414be2e139dac11ec718cead413cf685080ccbf3f3d47cb1"
