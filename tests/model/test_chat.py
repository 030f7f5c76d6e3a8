"""One chat format: training, reading, ablation and evaluation see the same text, and its hash says so."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.errors import DataError, ModelError
from harness.model.chat import ChatFormat, Document
from harness.model.subject import Subject, load_subject
from harness.records import Checkpoint, ModelRef, Trace
from harness.testing import tiny_traces

TRACE = Trace(id="t", question="1 × 2?", trace="1 × 2 → 2.", answer="2")


def test_the_text_is_the_papers(tiny_subject: Subject) -> None:
    rendered = ChatFormat().render(tiny_subject.tokenizer, TRACE)
    assert rendered.text == (
        "<|im_start|>user\n1 × 2?<|im_end|>\n<|im_start|>assistant\n"
        "<|im_start|>think\n1 × 2 → 2.\n<|im_start|>answer\nAnswer: 2<|im_end|>"
    )


def test_the_evaluation_prompt_is_the_beginning_of_the_training_text(tiny_subject: Subject) -> None:
    chat, tokenizer = tiny_subject.chat, tiny_subject.tokenizer
    for trace in tiny_traces(3):
        prompt = chat.prompt(tokenizer, trace.question)
        rendered = chat.render(tokenizer, trace)
        assert rendered.text.startswith(prompt)
        assert rendered.response_start == len(prompt)


def test_the_prompts_tokens_are_the_beginning_of_the_documents(tiny_subject: Subject) -> None:
    chat, tokenizer = tiny_subject.chat, tiny_subject.tokenizer
    for trace in tiny_traces(3):
        document = chat.document(tokenizer, trace)
        prompt = tuple(tokenizer(chat.prompt(tokenizer, trace.question), add_special_tokens=False)["input_ids"])
        assert document.ids[: document.response_token] == prompt


def test_the_first_supervised_token_is_the_one_after_the_assistant_header(tiny_subject: Subject) -> None:
    document = tiny_subject.chat.document(tiny_subject.tokenizer, TRACE)
    first = document.response_token
    assert tiny_subject.tokenizer.decode(document.ids[first]) == "<|im_start|>"
    assert document.text[: document.offsets[first][0]].endswith("<|im_start|>assistant\n")
    assert set(document.segments[:first]) == {"prompt"}
    assert document.segments[first] == "think"


def test_control_tokens_belong_to_what_they_open(tiny_subject: Subject) -> None:
    document = tiny_subject.chat.document(tiny_subject.tokenizer, TRACE)
    think = "".join(
        document.text[a:b] for (a, b), s in zip(document.offsets, document.segments, strict=True) if s == "think"
    )
    answer = "".join(
        document.text[a:b] for (a, b), s in zip(document.offsets, document.segments, strict=True) if s == "answer"
    )
    assert think.startswith("<|im_start|>think\n")
    assert answer.lstrip("\n").startswith("<|im_start|>answer")
    assert answer.endswith("<|im_end|>")


def ranked_text(document: Document) -> str:
    """What the ranked tokens say; `|` stands where they are interrupted."""
    pieces = [document.text[a:b] if r else "|" for (a, b), r in zip(document.offsets, document.ranked, strict=True)]
    return re.sub(r"\|+", "|", "".join(pieces)).strip("|")


def test_only_what_was_written_is_ranked(tiny_subject: Subject) -> None:
    chat, tokenizer = ChatFormat(system="2. is 1 × 2?"), tiny_subject.tokenizer
    assert ranked_text(chat.document(tokenizer, TRACE)) == "1 × 2?|1 × 2 → 2.|2"
    for part, text in (("question", "1 × 2?"), ("trace", "1 × 2 → 2."), ("answer", "2")):
        assert ranked_text(chat.document(tokenizer, TRACE, ranked=(part,))) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("question", ["assistant", "user", "a\nb", " x ", "a question that nobody asks", "<|im_end|>"])
@pytest.mark.parametrize("template", ["tokenizer", "plain", "unclosed"])
def test_the_question_is_found_whatever_it_is(tiny_subject: Subject, question: str, template: Any) -> None:
    trace = TRACE.model_copy(update={"question": question})
    rendered = ChatFormat(template=template, system=question).render(tiny_subject.tokenizer, trace)
    written = {part: rendered.text[slice(*span)] for part, span in rendered.written.items()}
    assert written == {"question": question, "trace": TRACE.trace, "answer": TRACE.answer}
    assert rendered.text[rendered.written["question"][1] :].lstrip().startswith(("<|im_end|>", "<|im_start|>"))


@pytest.mark.parametrize(
    "other", [{"system": "You are helpful."}, {"answer_prefix": ""}, {"think_header": "<think>"}, {"end": ""}]
)
def test_every_part_of_the_format_is_in_its_hash(tiny_subject: Subject, other: dict[str, str]) -> None:
    assert ChatFormat(**other).hash(tiny_subject.tokenizer) != tiny_subject.chat_hash  # type: ignore[arg-type]
    assert ChatFormat().hash(tiny_subject.tokenizer) == tiny_subject.chat_hash


def test_an_adapter_is_not_read_on_other_text_than_it_was_trained_on(
    tiny_base: ModelRef, tiny_checkpoint: Checkpoint
) -> None:
    with pytest.raises(ModelError, match="another chat format"):
        load_subject(tiny_base, ChatFormat(system="You are a helpful mathematics assistant."), tiny_checkpoint)


def test_a_tokenizer_without_template_names_the_cure(tiny_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_subject.tokenizer, "chat_template", None)
    with pytest.raises(ModelError, match=r"chat\.template=plain"):
        ChatFormat().prompt(tiny_subject.tokenizer, "?")
    assert ChatFormat(template="plain").prompt(tiny_subject.tokenizer, "?") == "?\n"


def test_a_border_inside_a_token_is_refused(tiny_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatFormat, "prompt", lambda *_: "First, Fi")
    chat = ChatFormat(think_header="rst, ")
    with pytest.raises(DataError, match="no token begins at the assistant's turn"):
        chat.document(tiny_subject.tokenizer, TRACE)
