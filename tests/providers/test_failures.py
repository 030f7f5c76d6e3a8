"""Errors inside the body of a 200: they mean what the HTTP status of their code means, in whatever form they come."""

import asyncio
import copy
import json
import random

import pytest

from harness.errors import HarnessError, ProviderError
from harness.llm.client import Client
from harness.llm.errors import Refused, Retryable
from harness.llm.parsing import Unparsed, answer_text
from harness.records import LLMReply, LLMRequest
from harness_plugins.providers import anthropic_messages, openai_chat
from harness_plugins.providers.failures import reported_error

MODULES = {"openai": openai_chat, "anthropic": anthropic_messages}
REQUEST = LLMRequest(model="some-model", user="Explain.", max_tokens=100)


def make(name, **settings):
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    return registration.load()(registration.config(timeout_s=30, **settings))


@pytest.fixture(params=sorted(MODULES))
def provider(request, vendor):
    return make(request.param, max_attempts=3, concurrency=4)


def ask(provider, journal, n=1):
    async def brief(seconds):
        await asyncio.sleep(min(seconds, 0.005))

    requests = [REQUEST.model_copy(update={"repeat": i}) for i in range(n)]
    return list(Client(provider, journal, "explainer", sleep=brief).run(requests))


def answered(text, **choice):
    """A body with an answer in both vendors' forms."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}
    return {"choices": [choice], "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "model": "m"}


BUSY = [
    {"error": {"code": 429, "message": "slow down"}},
    {"error": {"code": "429", "message": "slow down"}},
    {"error": {"code": 429.0, "message": "slow down"}, "choices": None},
    {"error": {"status": 503, "message": "slow down"}, "choices": []},
    {"error": {"type": "overloaded_error", "message": "slow down"}, "type": "error"},
    {"error": {"type": "rate_limit_error", "message": "slow down"}, "type": "error", "request_id": "r"},
    {"error": {"status": "RESOURCE_EXHAUSTED", "message": "slow down"}},
    [{"error": {"code": 503, "message": "slow down", "status": "UNAVAILABLE"}}],
    {"error": [{"code": 500, "message": "slow down"}]},
    {"errors": [{"message": "slow down"}]},
    {"error": "slow down"},
    {"error": "429 slow down"},
    {"error": True, "message": "slow down", "status": 502},
    {"error": {"message": {"error": {"message": "slow down", "code": 502}}}},
    {"object": "error", "message": "slow down", "code": 503, "type": "InternalServerError"},
    {"detail": "slow down"},
    {"base_resp": {"status_code": 1002, "status_msg": "slow down"}, "choices": None},
    "slow down",
    {**answered("half an"), "error": {"code": 502, "message": "slow down"}},
    answered("half an", error={"code": 502, "message": "slow down"}) | {"content": None},
    answered("", error="slow down", finish_reason="error") | {"content": None},
    answered("half an", message={"content": "half an", "error": {"message": "slow down"}}) | {"content": None},
]


@pytest.mark.parametrize("body", BUSY, ids=json.dumps)
def test_a_passing_error_is_tried_again_with_its_message(provider, vendor, journal, answer, body):
    vendor.script = [answer(body=json.dumps(body).encode())] * 3 + [answer(text="whole")]
    (call,) = ask(provider, journal)
    assert (call.status, call.n_attempts, call.final) == ("failed", 3, False)
    assert "slow down" in call.error
    (call,) = ask(provider, journal)
    assert (call.status, call.reply.text) == ("ok", "whole")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, "HTTP 429: slow down"),
        ({"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, "rate_limit_exceeded: slow down"),
        ({"error": "slow down"}, "the response reports an error: slow down"),
        ({"choices": None}, "the response has no choices"),
        ({"choices": []}, "the response has no choices"),
        (answered("half an", finish_reason="error"), "finish_reason error: the answer broke off"),
    ],
)
def test_what_a_failed_call_says(vendor, journal, answer, body, said):
    vendor.default = answer(body=json.dumps(body).encode())
    (call,) = ask(make("openai", max_attempts=1), journal)
    assert call.error == said


def test_where_the_body_says_how_long_to_wait_the_header_is_obeyed(provider, vendor, journal, answer):
    body = json.dumps({"error": {"code": 429, "message": "slow down"}}).encode()
    vendor.default = answer(body=body, headers={"Retry-After": "86400"})
    (call,) = ask(provider, journal)
    assert (call.n_attempts, "asked to wait 86400 s" in call.error) == (1, True)


REFUSED = [
    {"error": {"code": 400, "message": "too long"}},
    {"error": {"code": "context_length_exceeded", "type": "invalid_request_error", "message": "too long"}},
    {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}},
    {"error": {"code": 413, "message": "too long"}},
]


@pytest.mark.parametrize("body", REFUSED, ids=json.dumps)
def test_a_request_that_is_refused_is_not_sent_again(provider, vendor, journal, answer, body):
    vendor.default = answer(body=json.dumps(body).encode())
    (call,) = ask(provider, journal)
    assert (call.status, call.n_attempts, call.final) == ("failed", 1, True)
    assert "too long" in call.error


FATAL = [
    ({"error": {"code": 402, "message": "Pay"}}, "no credit left"),
    ({"error": {"code": "402", "message": "Pay"}}, "no credit left"),
    ({"error": {"code": "insufficient_quota", "message": "Pay"}}, "no credit left"),
    ({"error": {"code": 429, "type": "insufficient_quota", "message": "Pay"}}, "no credit left"),
    ({"error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}, "no credit left"),
    ({"type": "error", "error": {"type": "billing_error", "message": "Pay"}}, "no credit left"),
    ({"error": "Insufficient credits"}, "no credit left"),
    ([{"error": {"message": "Insufficient Balance"}}], "no credit left"),
    ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None}, "no credit left"),
    (answered("", error={"code": 402, "message": "Pay"}) | {"content": None}, "no credit left"),
    ({"error": {"code": 401, "message": "Who?"}}, "environment variable"),
    ({"error": {"code": "invalid_api_key", "type": "invalid_request_error"}}, "environment variable"),
    ({"type": "error", "error": {"type": "authentication_error", "message": "Who?"}}, "environment variable"),
    ({"error": {"status": 403, "message": "Not you"}}, "environment variable"),
    ({"error": "Incorrect API key provided"}, "environment variable"),
    ({"error": {"code": "model_not_found", "type": "invalid_request_error"}}, "some-model"),
]


@pytest.mark.parametrize(("body", "match"), FATAL, ids=lambda x: json.dumps(x))
def test_what_fails_for_all_ends_the_run_at_once(provider, vendor, journal, answer, body, match):
    vendor.default = answer(body=json.dumps(body).encode())
    with pytest.raises(ProviderError, match=match):
        ask(provider, journal, n=50)
    assert len(vendor.seen) <= 8, "those in flight"
    assert journal.calls == []
    assert journal.begun == set(), "all were turned away: none is in doubt"


@pytest.mark.parametrize("status", [400, 403, 429, 500])
def test_no_credit_ends_the_run_whatever_the_status(provider, vendor, journal, answer, status):
    message = "Your credit balance is too low to access the API"
    vendor.default = answer(status=status, body=json.dumps({"error": {"message": message}}).encode())
    with pytest.raises(ProviderError, match=f"no credit left .HTTP {status}: {message}"):
        ask(provider, journal, n=50)
    assert len(vendor.seen) <= 8


def test_an_answer_about_errors_is_an_answer(provider, vendor, journal, answer):
    text = '{"error": {"code": 402, "message": "insufficient credits"}}'
    vendor.default = answer(body=json.dumps({**answered(text), "error": None, "code": 0, "status": "ok"}).encode())
    (call,) = ask(provider, journal)
    assert (call.status, call.reply.text) == ("ok", text)
    vendor.default = answer(body=json.dumps({**answered("fine"), "error": {"code": None, "message": ""}}).encode())
    (call,) = ask(provider, journal, n=1)
    assert call.reply.text == text


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "a draft"}]}
PARTS = [
    ([{"type": "text", "text": "an "}, {"type": "text", "text": "answer"}], "an answer", None),
    ([THINKING, {"type": "text", "text": "an answer"}], "an answer", None),
    ([{"type": "reasoning", "text": "a draft"}, {"type": "output_text", "text": "an answer"}], "an answer", None),
    ([{"type": "redacted_thinking", "data": "x"}, "an answer"], "an answer", None),
    ([{"type": "text", "text": {"value": "an answer", "annotations": []}}], "an answer", None),
    ([{"text": "an answer"}, {"type": "tool_use", "input": {}}, None], "an answer", None),
    ([THINKING], "", None),
    ([], "", None),
    ([{"type": "refusal", "refusal": "I will not."}], "I will not.", "refusal"),
    ([{"type": "text", "text": "Well. "}, {"type": "refusal", "refusal": "I will not."}], "Well. ", "refusal"),
]


@pytest.mark.parametrize(("parts", "text", "finish"), PARTS, ids=lambda x: json.dumps(x))
def test_the_text_of_content_in_parts_is_joined(provider, vendor, journal, answer, parts, text, finish):
    choice = {"message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}
    body = {"choices": [choice], "content": parts, "stop_reason": "end_turn", "model": "m", "type": "message"}
    vendor.default = answer(body=json.dumps(body).encode())
    (call,) = ask(provider, journal)
    assert (call.status, call.reply.text, call.n_attempts) == ("ok", text, 1)
    assert call.reply.finish_reason == (finish or ("stop" if provider.name == "openai" else "end_turn"))
    if finish or not text:
        assert isinstance(answer_text(call.reply.text, call.reply.finish_reason), Unparsed)


def bodies():
    """Bodies of both vendors, good and bad, that mutations start from."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "input_tokens": 3, "output_tokens": 2}
    good = {**answered("an answer"), "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 1}}, "id": "c"}
    parts = copy.deepcopy(good)
    parts["choices"][0]["message"]["content"] = [THINKING, {"type": "text", "text": "an answer"}]
    parts["content"] = [THINKING, {"type": "refusal", "refusal": "no"}]
    return [*[good, parts] * 40, *BUSY, *REFUSED, *(body for body, _ in FATAL)]


ODD = [
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**400, 2**63, 429, "429", "", "error", "x" * 10_000,
    "\ud800", "\0", "\u202e", [], {}, [[]], [None], {"error": None}, {"": {}}, {"type": []}, ["a"], {"code": {}},
]  # fmt: skip


def mutated(rng, value, depth=0):
    """A value with a few places replaced, dropped, wrapped, doubled or exchanged."""
    if rng.random() < 0.12:
        return copy.deepcopy(rng.choice(ODD))
    if rng.random() < 0.05:
        return rng.choice([[value], {"error": value}, {"message": value}, [value, value], str(value)])
    if isinstance(value, dict):
        items = [(k, mutated(rng, v, depth + 1)) for k, v in value.items() if rng.random() > 0.06]
        if items and rng.random() < 0.1:
            items.append((rng.choice(["error", "errors", "code", "type", "content", "choices"]), rng.choice(items)[1]))
        return dict(items)
    if isinstance(value, list):
        return [mutated(rng, v, depth + 1) for v in value if rng.random() > 0.06]
    return value


def test_two_thousand_mutated_bodies_are_answers_or_failures(vendor, answer):
    """1,000 per vendor over the socket, at any status: an answer, or an error of ours that can be stored."""
    rng = random.Random(0)
    outcomes = []

    def choose(_):
        body = json.dumps(mutated(rng, rng.choice(start))).encode("utf-8", "surrogatepass")
        if rng.random() < 0.05:
            body = body[: rng.randrange(len(body) + 1)]
        if rng.random() < 0.05 and body:
            at = rng.randrange(len(body))
            body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        kind = rng.choice(["application/json"] * 8 + ["text/html", "text/plain; charset=no-such", ""])
        status = 200 if rng.random() < 0.8 else rng.choice([201, 204, 400, 401, 402, 404, 418, 429, 500, 503])
        return answer(body=b"" if status == 204 else body, status=status, headers={"Content-Type": kind})

    vendor.choose = choose
    start = bodies()

    async def ask_all(name):
        provider = make(name)
        for _ in range(1000):
            try:
                outcomes.append(await provider.complete(REQUEST))
            except HarnessError as failure:  # anything else is a raw exception
                outcomes.append(failure)
        await provider.aclose()

    for name in MODULES:
        asyncio.run(ask_all(name))
    assert len(outcomes) == 2000
    for kind in (LLMReply, Retryable, Refused, ProviderError):
        assert sum(isinstance(outcome, kind) for outcome in outcomes) > 50, kind
    for outcome in outcomes:
        text = outcome.model_dump_json() if isinstance(outcome, LLMReply) else str(outcome)
        text.encode()
        assert 0 < len(text) < 1000 or isinstance(outcome, LLMReply)


def test_mutated_bodies_are_read_alike_in_batches(vendor, answer):
    rng = random.Random(1)
    start = bodies()
    for name in MODULES:
        provider = make(name)
        for _ in range(500):
            body = mutated(rng, rng.choice(start))
            outcome = provider.outcome(body)
            assert isinstance(outcome, LLMReply | HarnessError)
            line = {"response": {"status_code": 200, "body": body}, "type": "errored", "error": body, "message": body}
            outcome = provider._outcome({name: mutated(rng, value) for name, value in line.items()})
            assert isinstance(outcome, LLMReply | HarnessError)


def test_bodies_without_an_error_report_none():
    for body in (answered("x"), {"choices": []}, {"content": []}, {}, [], None, 5, "", [5], {"error": {}}):
        assert reported_error(body) is None
