"""Replies as models write them (A6)."""

import json
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.llm.parsing import Parsed, Unparsed, answer_text, parse_call, parse_object
from harness.records import MAX_REPLY_CHARS, LLMCall, LLMReply, LLMRequest, capped


class Answer(BaseModel):
    explanation: str
    classification: Literal[0, 1, 2]


GOOD = '{"explanation": "digits", "classification": 1}'


def value(text):
    found = parse_object(text, Answer)
    assert isinstance(found, Parsed), found
    assert found.raw == text
    return found.value.explanation, found.value.classification


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here it is:\n{GOOD}\nHope that helps {{really}}.",
        f'First I thought {{"a": 1}} or {{x}}; so: {GOOD}',
        f'Draft: {{"explanation": "words", "classification": 2}}. Better: {GOOD}',
        '{"explanation": "digits", "classification": 1,}',
        '{"result": ' + GOOD + "}",
        '{"thoughts": "I could say {\\"explanation\\": \\"x\\"}", "explanation": "digits", "classification": 1}',
        '{\n"classification": 1,\n"explanation": "digits", "more": {"explanation": "no", "classification": 0}}',
        '<think>{"explanation": </think>' + GOOD,
    ],
)
def test_what_surrounds_the_answer_does_not_matter(text):
    assert value(text) == ("digits", 1)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\frac{a}{b}", r"\frac{a}{b}"),
        (r"\\frac{a}{b}", r"\frac{a}{b}"),
        (r"$x_{1}$ \in \{1\}", r"$x_{1}$ \in \{1\}"),
        (r"\times and \neq, \beta \right)", r"\times and \neq, \beta \right)"),
        (r"line\nThen tab\tstop \"q\" \u00d7 \/", 'line\nThen tab\tstop "q" × /'),
        (r"\user \x41", r"\user \x41"),
        ("raw\nline, ] and , }", "raw\nline, ] and , }"),
        ("} { [ ``` </script>", "} { [ ``` </script>"),
        (r"half a pair \ud800", "half a pair ?"),
    ],
)
def test_braces_and_latex_inside_strings(written, read):
    assert value(f'pre {{"explanation": "{written}", "classification": 0}} post') == (read, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("I cannot do that.", "no JSON object"),
        ("{a} {b}", "no JSON object"),
        ("[0, 1]", "no JSON object"),
        ('{"explanation": "digits aft', "broken or not closed"),
        ('{"explanation": "x", "classification": 1', "broken or not closed"),
        ('{"explanation": "your concise explanation", "classification": <0, 1, or 2>}', "broken or not closed"),
        (f'{GOOD} no: {{"explanation": "wor', "broken or not closed"),
        ('{"explanation": "x", "classification": 7}', "classification"),
        (f'{GOOD} or {{"explanation": "x", "classification": 3}}', "classification"),
        ('{"explanation": "x"}', "classification"),
        ('{"explanation": "x", "classification": 0, "classification": 2}', "two different values"),
        ('{"explanation": null, "classification": 0}', "explanation"),
        ('{"explanation": "x", "classification": NaN}', "classification"),
        ('{"explanation": ' * 5000, "broken"),
        ('{"explanation": ' + "1" * 5000 + "}", "broken"),
    ],
)
def test_what_is_not_there_is_not_made_up(text, reason):
    found = parse_object(text, Answer)
    assert isinstance(found, Unparsed)
    assert reason in found.reason
    assert found.raw == text


DRAFT = '{"explanation": "words", "classification": 2}'
BLOCKS = [
    ("<think>", "</think>"),
    ("<THINK>\n", "\n</Think>"),
    ('<thinking mode="deep" >', "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning >"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<thinking>", "</think>"),
]


@pytest.mark.parametrize(("begin", "end"), BLOCKS)
def test_thinking_blocks_are_cut_before_a_reply_is_read(begin, end):
    assert value(f"{begin}Perhaps {DRAFT}?{end}{GOOD}") == ("digits", 1)
    assert value(f"Let me see. {begin}{DRAFT}{end} So: {GOOD} {begin}{DRAFT}, no.{end}") == ("digits", 1)
    assert value(f"Perhaps {DRAFT}?{end}{GOOD}") == ("digits", 1), "a reply that begins inside the block"
    assert value(f"{begin}<think> is a tag, {DRAFT}{end} as I said {DRAFT}{end}{GOOD}") == ("digits", 1)
    for text, reason in [
        (f"{begin}{DRAFT}{end} I cannot tell.", "no JSON object"),
        (f"{begin}{DRAFT}", "not closed"),
        (f"{begin}{DRAFT}{end}{GOOD}{begin}but {DRAFT}", "not closed"),
        (f"{begin}{DRAFT}{end}\n", "empty reply after the thinking block"),
        (f"{DRAFT}{end}", "empty reply after the thinking block"),
    ]:
        unparsed = parse_object(text, Answer)
        assert isinstance(unparsed, Unparsed)
        assert reason in unparsed.reason
        assert unparsed.raw == text
    assert "raise max_tokens" in parse_object(f"{begin}{DRAFT}", Answer, finish_reason="length").reason


@pytest.mark.parametrize("tag", ["<think>", "</think>", "◁think▷", "[/THINK]", "<|end_of_thought|>", "<think/>"])
def test_a_tag_in_an_answer_is_a_word_of_it(tag):
    said = f'{{"explanation": "fires on {tag} and {{", "classification": 1}}'
    assert value(said) == (f"fires on {tag} and {{", 1)
    assert value(f"<think>{tag} {DRAFT}</think>As JSON: {said}") == (f"fires on {tag} and {{", 1)


def test_plain_answers_are_read_outside_thinking_blocks_too():
    assert answer_text("<think>tokens? no</think>contexts") == "contexts"
    assert answer_text("I think contexts") == "I think contexts"
    assert isinstance(answer_text("<think>tokens"), Unparsed)
    assert answer_text("I will not.", "refusal") == Unparsed(
        "refused by the model (finish_reason refusal): I will not.", "I will not."
    )


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", '{"a":', '{"a":<think></think>', "<think ", "<", '{"a": 1}<think>']
)
@pytest.mark.timeout(20)
def test_replies_without_end_are_read_in_linear_time(unit):
    assert isinstance(parse_object(unit * (MAX_REPLY_CHARS // len(unit)), Answer), Unparsed)


def test_of_a_reply_without_end_so_much_is_kept():
    reply = capped(LLMReply(text="x" * (MAX_REPLY_CHARS + 1), finish_reason="stop", model="m"))
    assert len(reply.text) == MAX_REPLY_CHARS
    assert (
        "more than 1,000,000 characters" in parse_object(reply.text, Answer, finish_reason=reply.finish_reason).reason
    )
    whole = LLMReply(text="x" * MAX_REPLY_CHARS, finish_reason="stop", model="m")
    assert capped(whole) == whole


def test_the_reason_says_that_a_reply_was_cut_or_refused():
    assert "raise max_tokens" in parse_object('{"explanation": "d', Answer, finish_reason="length").reason
    assert "raise max_tokens" in parse_object("", Answer, finish_reason="max_tokens").reason
    assert "refused" in parse_object(GOOD, Answer, finish_reason="refusal").reason


def test_a_failed_call_is_unparsed():
    request = LLMRequest(model="m", user="u")
    call = LLMCall(
        key="k",
        provider="p",
        role="r",
        request=request,
        status="failed",
        reply=None,
        error="HTTP 500",
        n_attempts=5,
        latency_s=1.0,
    )
    assert parse_call(call, Answer) == Unparsed("call failed: HTTP 500", "")


prose = st.text(alphabet=st.characters(exclude_characters='{"', exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    before=prose,
    after=prose,
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    grade=st.integers(0, 2),
)
def test_any_valid_answer_survives_any_prose(before, after, text, grade):
    # \b and \f are read as LaTeX, and so are \n, \r and \t before a command's name: leave them out here
    text = "".join(c for c in text if c not in "\b\f\n\r\t")
    body = json.dumps({"explanation": text, "classification": grade})
    assert value(before + body + after) == (text, grade)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='{}[]",:\\ex012 \n', max_size=80))
def test_garbage_never_raises(text):
    assert isinstance(parse_object(text, Answer), Parsed | Unparsed)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, len(GOOD) - 1))
def test_no_prefix_of_an_answer_is_an_answer(n):
    assert isinstance(parse_object(GOOD[:n], Answer), Unparsed)
