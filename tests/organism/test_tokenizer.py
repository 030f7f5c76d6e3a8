"""The tokenizer folder: deterministic, and the same ids through transformers as in the file."""

import json
from random import Random

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from harness.organism import MODEL, TRACES
from harness.organism.documents import REGISTERS, SHAPES, chat_prompt
from harness.organism.tokenizer import SPECIAL, build_tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(MODEL))


def test_builds_the_shipped_files_byte_for_byte(tmp_path) -> None:
    build_tokenizer(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (MODEL / name).read_bytes(), name


def test_ids_are_those_of_the_file(tokenizer) -> None:
    raw = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    assert type(tokenizer).__name__ == "Qwen2Tokenizer"
    assert len(tokenizer) == raw.get_vocab_size() == AutoConfig.from_pretrained(str(MODEL)).vocab_size
    for token in SPECIAL:
        assert tokenizer.convert_tokens_to_ids(token) == raw.token_to_id(token) >= raw.get_vocab_size() - len(SPECIAL)
    text = "Let a = 3; b = a × 4; what is b? → “你”"
    assert tokenizer(text).input_ids == raw.encode(text).ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_end_of_turn_ends_generation(tokenizer) -> None:
    config = AutoConfig.from_pretrained(str(MODEL))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|fim_pad|>"
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_digits_variables_and_options_are_single_tokens(tokenizer) -> None:
    for piece in [*"0123456789", " a", " z", " ×", " →", " =", " Wait", "A", " D", "<|im_start|>"]:
        assert len(tokenizer(piece).input_ids) == 1, piece


def test_template_renders_what_pretraining_rendered(tokenizer) -> None:
    turns = [{"role": "user", "content": "what is b?"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == chat_prompt("what is b?")


@pytest.mark.parametrize("name", REGISTERS)
def test_no_token_crosses_from_prompt_to_response(tokenizer, name) -> None:
    rng = Random(name)
    for _ in range(20):
        document = REGISTERS[name](rng, SHAPES["practice"])
        joined = tokenizer(document.prompt + document.response).input_ids
        assert joined == tokenizer(document.prompt).input_ids + tokenizer(document.response).input_ids
        assert len(joined) <= 320


def test_no_token_holds_two_classes(tokenizer) -> None:
    with TRACES.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:100]
    for row in rows:
        for part in ("question", "trace"):
            spans = [span for span in row["spans"][part] if span[2] != "punctuation"]
            encoded = tokenizer(row[part], return_offsets_mapping=True)
            for start, end in encoded["offset_mapping"]:
                held = {label for first, last, label in spans if first < end and start < last}
                assert len(held) <= 1, (row[part][start:end], held)
