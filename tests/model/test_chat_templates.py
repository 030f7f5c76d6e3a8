"""Chat templates and tokenizers of other families: one BOS, no clock, and what a template refuses in a sentence."""

from __future__ import annotations

import datetime
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from harness.activations.capture import prepare
from harness.benchmarks.lm import SubjectLM
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError, HarnessError, ModelError, UsageError
from harness.model.chat import ChatFormat, with_bos
from harness.model.subject import load_subject, load_tokenizer
from harness.records import ModelRef, Trace
from harness.study.plan import parse_settings
from harness.testing import tiny_adapter, tiny_model, tiny_tokenizer, tiny_traces
from harness_plugins.trainers.examples import make_examples
from tests.test_rows import mutated

TRACE = Trace(id="t", question="what is 3 × 4?", trace="3 × 4 = 12.", answer="12")
TURNS = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
NO_SYSTEM = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}"
TEMPLATES = ("tokenizer", "plain", "unclosed")
BOS = "<|endoftext|>"


def adding(tokenizer: Tokenizer, bos: str, eos: str | None = None) -> Tokenizer:
    """The tokenizer, which then puts `bos` before every text (and `eos` behind it)."""
    ends = [f" {eos}"] if eos else []
    special = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A{''.join(ends)}", special_tokens=special)
    return tokenizer


def byte_level(folder: Path, *, eos: bool = False) -> Any:
    """A byte-level tokenizer that adds a BOS, as Llama 3's does."""
    tiny_tokenizer(folder)
    inner = adding(Tokenizer.from_file(str(folder / "tokenizer.json")), BOS, "<|im_end|>" if eos else None)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=BOS, eos_token="<|im_end|>", pad_token="<|fim_pad|>", chat_template=TURNS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def sentencepiece(_: Path) -> Any:
    """A tokenizer that adds a BOS and puts a space before a text, but not behind a special token, as Llama 2's does."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    texts = [f"{t.question} {t.trace}" for t in tiny_traces(40)]
    inner.train_from_iterator(
        [*texts, TRACE.question, "<|im_start|>|im_end|>user\nassistant\nthink\nanswer\nA:"], trainer
    )
    inner.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=adding(inner, "<s>"), bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TURNS
    )


def prefix_of_two(folder: Path) -> Any:
    """A tokenizer that puts two special tokens before a text, as GLM's does."""
    tokenizer = byte_level(folder)
    inner = tokenizer.backend_tokenizer
    special = [(t, inner.token_to_id(t)) for t in ("<|fim_pad|>", BOS)]
    inner.post_processor = processors.TemplateProcessing(single=f"<|fim_pad|> {BOS} $A", special_tokens=special)
    return tokenizer


BUILDERS: tuple[Callable[[Path], Any], ...] = (
    byte_level, lambda folder: byte_level(folder, eos=True), sentencepiece, prefix_of_two,
)  # fmt: skip


@pytest.mark.parametrize("build", BUILDERS, ids=["byte-level", "with EOS", "sentencepiece", "two tokens"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_text_has_the_ids_that_the_tokenizer_gives_it(
    build: Callable[[Path], Any], template: Any, tmp_path: Path
) -> None:
    tokenizer = build(tmp_path)
    document = ChatFormat(template=template).document(tokenizer, TRACE)
    n_special = len(tokenizer("a")["input_ids"]) - len(tokenizer("a", add_special_tokens=False)["input_ids"])
    assert n_special >= 1
    tokenizer.chat_template = None
    bos = tokenizer.bos_token
    text = document.text[document.text.index(bos) + len(bos) :].removeprefix(" ")
    own = tokenizer(text)["input_ids"]
    assert list(document.ids) == own[: len(document.ids)]
    assert document.ids.count(tokenizer.bos_token_id) == 1
    assert not document.ranked[0]
    assert document.segments[0] == "prompt"
    assert document.text.startswith(with_bos(tokenizer, ""))


@pytest.mark.parametrize("before", ["", "\\n", "  "])
@pytest.mark.parametrize("build", BUILDERS[:3], ids=["byte-level", "with EOS", "sentencepiece"])
def test_a_template_that_writes_the_bos_is_left_as_it_is(
    build: Callable[[Path], Any], before: str, tmp_path: Path
) -> None:
    tokenizer = build(tmp_path)
    tokenizer.chat_template = f"{{{{ '{before}' }}}}{{{{ bos_token }}}}" + TURNS
    turns = [{"role": "user", "content": TRACE.question}]
    written = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ChatFormat().prompt(tokenizer, TRACE.question) == written
    assert ChatFormat().document(tokenizer, TRACE).ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tokenizer_that_adds_no_bos_gets_none(template: Any, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.bos_token = BOS  # as GPT-2's and many others': named, and never put before a text
    document = ChatFormat(template=template).document(tokenizer, TRACE)
    assert tokenizer.bos_token_id not in document.ids


@pytest.fixture(scope="module")
def bos_model(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model whose tokenizer adds a BOS and whose chat template does not write it."""
    base = tiny_model(tmp_path_factory.mktemp("bos"), "llama")
    byte_level(Path(base.path))
    config = json.loads((Path(base.path) / "tokenizer_config.json").read_text())
    (Path(base.path) / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return base


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_capture_and_evaluation_read_one_bos(bos_model: ModelRef, template: Any, tmp_path: Path) -> None:
    chat = ChatFormat(template=template)
    subject = load_subject(bos_model, chat, tiny_adapter(bos_model, tmp_path / "adapter", chat=chat))
    tokenizer, bos = subject.tokenizer, subject.tokenizer.bos_token_id
    assert tokenizer("a")["input_ids"][0] == bos
    document = chat.document(tokenizer, TRACE)
    prompt = document.ids[: document.response_token]
    trained = make_examples([TRACE], chat, tokenizer, 512).rows[0]
    read = prepare(subject, TRACE)[0].document
    lm = SubjectLM(subject, settings=EvaluateConfig(benchmarks=["organism_chain"]))
    asked = lm.apply_chat_template([{"role": "user", "content": TRACE.question}])
    by_lm = tuple(lm.tok_batch_encode([asked])[0][0].tolist())
    scored, _ = lm._encode_pair(asked, "12")
    assert tuple(trained["input_ids"].tolist()) == document.ids == read.ids
    assert by_lm == tuple(lm.tok_encode(asked)) == prompt
    assert tuple(scored) == prompt[: len(scored)]
    assert [ids.count(bos) for ids in (document.ids, by_lm, tuple(scored))] == [1, 1, 1]


# Clocks

CLOCKS = {
    "Llama 3.2": (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}{{ 'Today: ' + date_string + '\n' }}",
        "Today: {:%d %b %Y}\n",
    ),
    "Granite": ("{{ \"Today's Date: \" + strftime_now('%B %d, %Y') + '.\n' }}", "Today's Date: {:%B %d, %Y}.\n"),
    "an alias": ("{% set now = strftime_now %}{% set f = '%Y-%m-%d' %}{{ now(f) }}\n", "{:%Y-%m-%d}"),
    "to the second": ("{{ strftime_now('%A %-d.%-m.%y %H:%M:%S (%j)') }}!", "{:%A %-d.%-m.%y} 00:00:00 ({:%j})!"),
    "in a macro": ("{% macro today() %}{{ strftime_now('%x') }}{% endmacro %}{{ today() }};", "{:%x};"),
    "behind a line break": ("\n  {{ strftime_now('%Y') }};", "\n  {:%Y};"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("date", [None, datetime.date(2025, 1, 31)])
def test_a_template_with_a_clock_tells_the_formats_date(name: str, date: datetime.date | None, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    clock, expected = CLOCKS[name]
    tokenizer.chat_template = clock + TURNS
    day = date or datetime.date(2024, 7, 26)
    chat = ChatFormat(date=date)
    assert chat.prompt(tokenizer, "?").split("<|im_start|>")[0] == expected.format(day, day)
    assert chat.hash(tokenizer) == ChatFormat(date=date).hash(tokenizer)
    assert chat.hash(tokenizer) != ChatFormat(date=datetime.date(2025, 2, 1)).hash(tokenizer)


def test_a_date_variable_has_the_date_where_one_is_set(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ date_string | default('1 May 2023') }};" + TURNS
    assert ChatFormat().prompt(tokenizer, "?").startswith("1 May 2023;")
    assert ChatFormat(date=datetime.date(2025, 1, 31)).prompt(tokenizer, "?").startswith("31 Jan 2025;")


def test_the_date_is_a_setting_and_is_left_out_where_it_is_not_set() -> None:
    settings = parse_settings(["chat.date=2025-01-31"])["chat"]
    chat = ChatFormat.merged("chat", {}, settings)
    assert chat.model_dump()["date"] == "2025-01-31"
    assert ChatFormat.model_validate(chat.model_dump()) == chat
    assert ChatFormat.model_validate_json(chat.model_dump_json()) == chat
    assert "date" not in ChatFormat().model_dump()
    assert "date" not in ChatFormat().model_dump(mode="json")
    with pytest.raises(UsageError, match=r"chat\.date='tomorrow'"):
        ChatFormat.merged("chat", {"date": "tomorrow"})


# What a template refuses


def refusal(tokenizer: Any, chat: ChatFormat, turns: list[dict[str, str]] | None = None) -> str:
    """The sentence about turns that cannot be written."""
    with pytest.raises(ModelError) as caught:
        chat.chat_prompt(tokenizer, turns or [{"role": "user", "content": "what?"}])
    return str(caught.value)


def test_a_refused_system_prompt_names_the_templates_words_and_the_cure(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = NO_SYSTEM + TURNS
    said = refusal(tokenizer, ChatFormat(system="Be brief."))
    assert said.startswith(f"the chat template of {str(tmp_path)!r} cannot write the turns system, user: ")
    assert "System role not supported; leave the system prompt out (--set chat.system=null)" in said
    plain = ChatFormat().prompt(tokenizer, "what?")
    assert (
        plain
        == ChatFormat(system="").prompt(tokenizer, "what?")
        == "<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (NO_SYSTEM + TURNS, "System role not supported"),
        (TURNS.replace("in messages", "in messages if m['role'] != 'system'"), "it ignores what the system says"),
    ],
    ids=["refused", "ignored"],
)
def test_a_benchmarks_description_goes_before_the_question_where_system_turns_are_not_written(
    template: str, reason: str, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = template
    contents = {"system": "Add.", "user": "1 + 2?", "assistant": "3"}
    turns = [{"role": role, "content": content} for role, content in contents.items()]
    expected = "<|im_start|>user\nAdd.\n\n1 + 2?<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n<|im_start|>assistant\n"
    assert ChatFormat().chat_prompt(tokenizer, turns) == expected
    assert reason in refusal(tokenizer, ChatFormat(system="Add."))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('Conversation roles must alternate user/assistant') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].content.nothing.at_all }}", "has no attribute"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% for p in messages[0].content if p.type == 'text' %}{{ p.text }}{% endfor %}:", "ignores what the user"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_a_sentence(template: str, said: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = template
    sentence = refusal(tokenizer, ChatFormat())
    assert said in sentence
    assert "cannot write the turns user" in sentence
    assert "chat_template.jinja" in sentence
    assert "\n" not in sentence


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_two_thousand_damaged_templates_are_rendered_or_refused_in_a_sentence(tmp_path: Path) -> None:
    tokenizer, n_refused = tiny_tokenizer(tmp_path), 0
    whole = (NO_SYSTEM + CLOCKS["Llama 3.2"][0] + TURNS).encode()
    for seed in range(2000):
        tokenizer.chat_template = mutated(whole, random.Random(seed)).decode(errors="replace")
        try:
            ChatFormat().document(tokenizer, TRACE)
        except HarnessError as error:
            n_refused += 1
            str(error).encode()
    assert 200 < n_refused < 1900, "both outcomes must occur"


def test_half_of_a_surrogate_pair_is_refused_by_the_traces_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trace 't' holds half of a surrogate pair \('\\ud83d'\)"):
        ChatFormat().document(tiny_tokenizer(tmp_path), TRACE.model_copy(update={"trace": "cut \ud83d"}))


def test_a_template_may_trim_a_turn_or_act_on_a_flag_in_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ messages[0]['content'] | trim | replace('\n\n', '\n') }}"
    assert ChatFormat().prompt(tokenizer, " a\n\nb ") == "a\nb"
    tokenizer.chat_template = "{% if '/quiet' in messages[0]['content'] %}!{% endif %}{{ messages[1]['content'] }}"
    assert ChatFormat(system="/quiet").prompt(tokenizer, "x") == "!x"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_system_prompt_is_in_every_template(template: Any, tmp_path: Path) -> None:
    chat = ChatFormat(template=template, system="Be brief.")
    assert chat.prompt(tiny_tokenizer(tmp_path), "1?").index("Be brief.") < len("<|im_start|>system\n.")


# What must not change: stored adapters and results name these hashes


def test_the_organisms_default_format_is_what_it_always_was() -> None:
    tokenizer = load_tokenizer(ModelRef(path="package://harness/organism/checkpoint"))
    assert ChatFormat().hash(tokenizer) == "feaa531c4a0f7a90b85814da93cc56aa478f3522ac3da78d0dd8fecf0c89fc27"


def test_a_model_folder_of_yesterday_is_read_alike_today(bos_model: ModelRef, tmp_path: Path) -> None:
    folder = tmp_path / "clock"
    shutil.copytree(bos_model.path, folder)
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d.%m.%Y %H:%M:%S.%f') }}" + TURNS)
    base = ModelRef(path=str(folder))
    checkpoint = tiny_adapter(base, tmp_path / "adapter")
    assert load_subject(base, ChatFormat(), checkpoint).chat_hash == checkpoint.chat_hash
