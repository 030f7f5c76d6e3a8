"""Replies as models write them (A6)."""

import json
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.llm.parsing import Parsed, Unparsed, parse_call, parse_object
from harness.records import LLMCall, LLMRequest


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
