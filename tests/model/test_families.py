"""Marks of trace and answer are those of the model's own chat template, whatever its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.marks import Marks, no_single_tokens
from harness.records import Trace
from harness.testing import tiny_tokenizer
from tests.probes.test_written_only import SMOLLM2, SMOLLM2_TEMPLATE

TRACE = Trace(id="t", question="What is 3 × 4?", trace="3 × 4 = 12.\n\nSo 12.", answer="It is 12.")

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (  # v0.3's, without tools: there is no system role of its own
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN25 = (  # without tools
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif %}{%- for message in messages %}{%- if (message.role == 'user') or (message.role == 'system' and not "
    "loop.first) or (message.role == 'assistant') %}{{- '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- endif %}"
)
CHATML = Marks("<|im_start|>think\n", "\n<|im_start|>answer\n", "<|im_end|>")

# family: template, special tokens, BOS, EOS, marks, what stands before the trace, marks that are no single tokens
FAMILIES: dict[str, tuple[str, tuple[str, ...], str | None, str, Marks, str, tuple[str, ...]]] = {
    "Qwen2.5": (QWEN25, ("<|im_start|>", "<|im_end|>"), None, "<|im_end|>", CHATML,
                "<|im_start|>assistant\n<|im_start|>think\n", ()),
    "SmolLM2": (SMOLLM2_TEMPLATE, ("<|im_start|>", "<|im_end|>"), None, "<|im_end|>", CHATML,
                "<|im_start|>assistant\n<|im_start|>think\n", ()),
    "Llama 3": (
        LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|begin_of_text|>",
        "<|eot_id|>",
        Marks("<|start_header_id|>think<|end_header_id|>\n\n", "\n<|start_header_id|>answer<|end_header_id|>\n\n",
              "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n<|start_header_id|>think<|end_header_id|>\n\n", ()),
    "Gemma": (
        GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>",
        Marks("<start_of_turn>think\n", "\n<start_of_turn>answer\n", "<end_of_turn>"),
        "<start_of_turn>model\n<start_of_turn>think\n", ()),
    "Mistral v0.3": (
        MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>",
        Marks("<think>\n", "\n</think>\n\n", "</s>"), "[/INST]<think>\n", ("<think>", "</think>")),
    "Phi-3": (
        PHI3, ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), None, "<|endoftext|>",
        Marks("<think>\n", "\n</think>\n\n", "<|end|>"), "<|assistant|>\n<think>\n", ("<think>", "</think>")),
}  # fmt: skip


def tokenizer_of(family: str, folder: Path) -> Any:
    """A small tokenizer with the family's special tokens and chat template."""
    template, special, bos, eos, *_ = FAMILIES[family]
    tiny_tokenizer(folder)
    inner = Tokenizer.from_str(_without_chatml((folder / "tokenizer.json").read_text(encoding="utf-8")))
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=eos, chat_template=template
    )


def _without_chatml(text: str) -> str:
    import json

    described = json.loads(text)
    described["added_tokens"] = [t for t in described["added_tokens"] if not t["content"].startswith("<|im_")]
    return json.dumps(described)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_format_is_the_familys_own(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family, tmp_path)
    *_, marks, opening, split = FAMILIES[family]
    chat = ChatFormat()
    assert chat.marks(tokenizer) == marks
    rendered = chat.render(tokenizer, TRACE)
    assert f"{opening}{TRACE.trace}{marks.answer_header}Answer: {TRACE.answer}{marks.end}" in rendered.text
    assert ("<|im_start|>" in rendered.text) == (marks == CHATML)
    sentence = no_single_tokens(tokenizer, marks)
    if not split:
        assert sentence is None
    else:
        assert sentence is not None
        assert all(mark in sentence for mark in split)
        assert "--set chat.think_header=TEXT" in sentence


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_was_written_is_ranked_in_every_family(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family, tmp_path)
    document = ChatFormat().document(tokenizer, TRACE)
    text = document.text
    places = [text.index(TRACE.question), text.index(TRACE.trace), text.rindex(TRACE.answer)]
    spans = [(at, at + len(t)) for at, t in zip(places, (TRACE.question, TRACE.trace, TRACE.answer), strict=True)]
    inside = [any(start <= a < b <= end for start, end in spans) for a, b in document.offsets]
    assert list(document.ranked) == inside
    assert sum(inside) > 10
    for a, b in (o for o, r in zip(document.offsets, document.ranked, strict=True) if not r):
        assert not any(start + 1 <= a and b <= end - 1 for start, end in spans), "only at the edges of a span"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resolved_format_is_the_same_format(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family, tmp_path)
    resolved = ChatFormat().resolved(tokenizer)
    assert None not in (resolved.think_header, resolved.answer_header, resolved.end)
    assert resolved.hash(tokenizer) == ChatFormat().hash(tokenizer)
    assert resolved.render(tokenizer, TRACE) == ChatFormat().render(tokenizer, TRACE)


def test_marks_that_are_set_stay_and_are_looked_at(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("Llama 3", tmp_path)
    chat = ChatFormat(think_header="<|im_start|>think\n")
    assert chat.marks(tokenizer).think_header == "<|im_start|>think\n"
    assert chat.marks(tokenizer).end == "<|eot_id|>"
    sentence = no_single_tokens(tokenizer, chat.marks(tokenizer))
    assert sentence is not None
    assert "<|im_start|>" in sentence


def test_a_base_tokenizer_without_a_template_is_refused_and_plain_is_plain(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("Llama 3", tmp_path)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"has no chat template; .*--set chat\.template=plain"):
        ChatFormat().document(tokenizer, TRACE)
    text = ChatFormat(template="plain").render(tokenizer, TRACE).text
    assert text == (
        f"<|begin_of_text|>{TRACE.question}\n<think>\n{TRACE.trace}\n</think>\n\nAnswer: {TRACE.answer}<|eot_id|>"
    )


def test_the_real_smollm2_gets_chatml() -> None:
    if not SMOLLM2.is_dir():
        pytest.skip(f"SmolLM2-135M-Instruct is not at {SMOLLM2}: make test-real")
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    assert ChatFormat().marks(tokenizer) == CHATML
    assert no_single_tokens(tokenizer, CHATML) is None
    assert ChatFormat().render(tokenizer, TRACE).text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{TRACE.question}<|im_end|>\n<|im_start|>assistant\n"
        f"<|im_start|>think\n{TRACE.trace}\n<|im_start|>answer\nAnswer: {TRACE.answer}<|im_end|>"
    )
