"""Both vendors through their real SDKs, the client and a loopback server."""

import asyncio
import json
import logging
import threading
import time

import pytest

from harness.errors import ProviderError
from harness.llm.client import Client
from harness.llm.errors import MissingKey, Outage
from harness.records import LLMRequest
from harness_plugins.providers import anthropic_messages, openai_chat
from harness_plugins.providers.wire import retry_after_s

MODULES = {"openai": openai_chat, "anthropic": anthropic_messages}
REQUEST = LLMRequest(model="some-model", system="Be brief.", user="Explain.", max_tokens=100)


def make(name, **settings):
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    return registration.implementation()(registration.config(**settings))


@pytest.fixture(params=sorted(MODULES))
def provider(request, vendor):
    return make(request.param)


def ask(provider, journal, *requests, **settings):
    provider.config = provider.config.model_copy(update={"timeout_s": 30, **settings})
    client = Client(provider, journal, "explainer", sleep=brief_sleep)
    return list(client.run(list(requests) or [REQUEST]))


async def brief_sleep(seconds):
    await asyncio.sleep(min(seconds, 0.01))


def test_answer_and_usage(provider, vendor, journal):
    (call,) = ask(provider, journal)
    assert call.status == "ok"
    assert call.reply is not None
    assert json.loads(call.reply.text)["classification"] == 0
    assert (call.reply.input_tokens, call.reply.cached_tokens, call.reply.output_tokens) == (17, 5, 7)
    assert (call.reply.model, call.reply.request_id) == ("some-model", "r1")
    assert call.reply.finish_reason in ("stop", "end_turn")
    assert call.n_attempts == 1


def test_openai_request(vendor, journal):
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}}
    request = REQUEST.model_copy(update={"temperature": 0.5, "json_schema": schema})
    ask(make("openai"), journal, request)
    body = vendor.seen[0].body
    assert vendor.seen[0].path == "/v1/chat/completions"
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert (body["max_completion_tokens"], body["temperature"]) == (100, 0.5)
    assert body["response_format"]["json_schema"]["schema"] == schema
    settings = {"structured_output": False, "max_tokens_field": "max_tokens", "base_url": f"{vendor.url}/v2"}
    ask(make("openai", **settings), journal, REQUEST.model_copy(update={"json_schema": schema, "repeat": 1}))
    body = vendor.seen[1].body
    assert vendor.seen[1].path == "/v2/chat/completions"
    assert body["max_tokens"] == 100
    assert not {"temperature", "response_format", "max_completion_tokens"} & set(body)


def test_anthropic_request(vendor, journal):
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}}
    request = REQUEST.model_copy(update={"json_schema": schema, "max_tokens": 64_000})
    ask(make("anthropic", structured_output=True), journal, request)
    body = vendor.seen[0].body
    assert vendor.seen[0].path == "/v1/messages"
    assert (body["system"], body["max_tokens"]) == ("Be brief.", 64_000)
    assert body["output_config"]["format"]["schema"]["properties"]["a"] == {"type": "string"}
    with pytest.raises(ProviderError, match="no temperature"):
        ask(make("anthropic"), journal, REQUEST.model_copy(update={"temperature": 0.0}))
    assert len(vendor.seen) == 1


@pytest.mark.parametrize(("status", "attempts"), [(429, 2), (500, 2), (529, 2), (503, 2), (408, 2)])
def test_transient_statuses_are_retried_by_the_client_only(provider, vendor, journal, answer, status, attempts):
    vendor.script = [answer(status=status, text="busy")]
    (call,) = ask(provider, journal)
    assert (call.status, call.n_attempts, len(vendor.seen)) == ("ok", attempts, attempts)


@pytest.mark.parametrize(
    "bad",
    [
        {"body": b"<html>502</html>", "headers": {"Content-Type": "text/html"}},
        {"body": b'{"choices": '},
        {"body": b"[]"},
        {"body": b"null"},
        {"body": b'{"choices": [], "content": 5}'},
        {"body": b'{"choices": [{"message": {"content": 5}}], "content": [{"type": "text", "text": 5}]}'},
        {"body": b"[" * 100_000},
        {"body": b'{"choices": [{"message": {"content": "x"}}], "content": [], "usage": {"prompt_tokens": -1, '
                 b'"input_tokens": -1}}'},
        {"body": b"\xff\xfe\x00"},
        {"hang_up": True},
    ],
)  # fmt: skip
def test_garbage_and_closed_are_retried_and_never_crash(provider, vendor, journal, answer, bad):
    vendor.script = [answer(**bad), answer(**bad)]
    (call,) = ask(provider, journal, max_attempts=2)
    assert (call.status, call.n_attempts, call.reply) == ("failed", 2, None)
    assert call.error
    (call,) = ask(provider, journal)
    assert (call.status, len(vendor.seen)) == ("ok", 3)


def test_a_silent_server_is_given_up_and_asked_again_by_the_next_run(provider, vendor, journal, answer):
    silence = threading.Event()
    vendor.choose = lambda body: answer() if silence.wait(60) else None
    (call,) = ask(provider, journal, max_attempts=2, timeout_s=0.3)
    assert (call.status, call.n_attempts, call.reply) == ("failed", 2, None)
    assert "0.3 s" in call.error
    silence.set()
    (call,) = ask(provider, journal)
    assert call.status == "ok"


def test_bad_requests_are_not_retried(provider, vendor, journal, answer):
    vendor.script = [answer(status=400, text="prompt {is} too [long]")]
    (call,) = ask(provider, journal)
    assert (call.status, call.n_attempts) == ("failed", 1)
    assert call.error == "HTTP 400: prompt {is} too [long]"


@pytest.mark.parametrize(
    ("status", "body", "match"),
    [
        (401, None, "environment variable"),
        (403, None, "environment variable"),
        (404, None, "some-model"),
        (402, None, "credit"),
        (429, b'{"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}', "credit"),
    ],
)
def test_what_fails_for_all_ends_the_run(provider, vendor, journal, answer, status, body, match):
    vendor.default = answer(status=status, body=body)
    requests = [REQUEST.model_copy(update={"repeat": i}) for i in range(50)]
    with pytest.raises(ProviderError, match=match):
        ask(provider, journal, *requests, concurrency=4)
    assert len(vendor.seen) <= 8


def test_missing_key_names_the_variable_and_sends_nothing(vendor, journal, monkeypatch):
    for name, variable in (("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")):
        monkeypatch.delenv(variable)
        with pytest.raises(MissingKey, match=variable):
            ask(make(name), journal)
        assert ask(make(name, key_required=False), journal)[0].status == "ok"
    with pytest.raises(ProviderError, match="--provider openai:MODEL"):
        ask(make("openai", key_required=False), journal, REQUEST.model_copy(update={"model": ""}))
    assert len(vendor.seen) == 2


def test_retry_after_is_obeyed_by_all_and_where_it_is_too_long_the_call_is_given_up(provider, vendor, journal, answer):
    # the call in flight is held until the other has surely been turned away, else it could free its place before
    vendor.script = [answer(status=429, headers={"Retry-After": "2"}), answer(sleep_s=1.0)]
    provider.config = provider.config.model_copy(update={"concurrency": 2, "max_wait_s": 5.0})
    requests = [REQUEST.model_copy(update={"repeat": i}) for i in range(4)]
    began = time.monotonic()
    calls = list(Client(provider, journal, "explainer").run(requests))
    assert [c.status for c in calls] == ["ok"] * 4
    arrived = [seen.at - began for seen in vendor.seen]
    assert len(arrived) == 5
    # the other call was in flight already; nobody sends another request before the time is over
    assert all(at > 2 for at in arrived[2:])
    vendor.script = [answer(status=429, headers={"retry-after": "86400"})]
    (call,) = Client(provider, journal, "explainer").run([REQUEST.model_copy(update={"repeat": 9})])
    assert (call.status, call.n_attempts, call.final) == ("failed", 1, False)
    assert "86400" in call.error


def test_refusal_and_truncation_are_answers(provider, vendor, journal, answer):
    vendor.script = [answer(text="I cannot help.", finish="refusal")]
    (refused,) = ask(provider, journal)
    assert (refused.status, refused.reply.finish_reason, refused.reply.text) == ("ok", "refusal", "I cannot help.")
    cut = "length" if provider.name == "openai" else "max_tokens"
    vendor.script = [answer(text='{"explanation": "dig', finish=cut)]
    (call,) = ask(provider, journal, REQUEST.model_copy(update={"repeat": 1}))
    assert (call.status, call.reply.finish_reason) == ("ok", cut)


def test_hostile_text_is_kept_as_text(provider, vendor, journal, answer):
    hostile = '{0} {key} %s \x00 \u2028 </script> [red]x[/red] {"a": {"a": 1}} \\ud800'
    vendor.script = [answer(text=hostile), answer(text="\ud800 lone")]
    first, second = ask(provider, journal, REQUEST, REQUEST.model_copy(update={"repeat": 1}), concurrency=1)
    assert first.reply.text == hostile
    assert second.reply.text == "\ufffd lone"
    second.model_dump_json().encode()


def test_attempts_of_a_call_carry_its_hash_and_no_other_call_has_it(provider, vendor, journal, answer):
    vendor.script = [answer(status=503), answer(body=b"nonsense"), answer(hang_up=True)]
    calls = ask(provider, journal, REQUEST, REQUEST.model_copy(update={"repeat": 1}), concurrency=1)
    keys = [seen.headers["idempotency-key"] for seen in vendor.seen]
    assert keys == [calls[0].key] * 4 + [calls[1].key]
    assert calls[0].key != calls[1].key
    vendor.seen.clear()
    (again,) = ask(make(provider.name), type(journal)())
    assert vendor.seen[0].headers["idempotency-key"] == again.key == calls[0].key, "and the next run's attempts too"


def test_nothing_is_paid_twice(provider, vendor, journal):
    requests = [REQUEST.model_copy(update={"user": f"q{i % 5}"}) for i in range(20)]
    first = ask(provider, journal, *requests)
    assert len(vendor.seen) == 5
    assert [c.request for c in first] == requests
    again = ask(make(provider.name), journal, *requests)
    assert len(vendor.seen) == 5
    assert again == first


def test_concurrency_is_bounded(provider, vendor, journal, answer):
    full, last = threading.Barrier(3), threading.Event()

    def choose(body):
        if not last.is_set():  # the first three are held until all of them are there
            full.wait(60)
            last.set()
        return answer(sleep_s=0.02)

    vendor.choose = choose
    ask(provider, journal, *[REQUEST.model_copy(update={"repeat": i}) for i in range(12)], concurrency=3)
    assert vendor.most_in_flight == 3


def test_an_outage_ends_the_run(provider, vendor, journal, answer):
    vendor.default = answer(status=503)
    requests = [REQUEST.model_copy(update={"repeat": i}) for i in range(100)]
    with pytest.raises(Outage, match="the last 6 calls all failed"):
        ask(provider, journal, *requests, concurrency=2, max_attempts=1, outage_after=6)
    assert len(vendor.seen) < 15


def test_the_key_is_never_shown(provider, vendor, journal, answer, canary, caplog):
    with caplog.at_level(logging.DEBUG):
        ask(provider, journal, REQUEST.model_copy(update={"repeat": 3}))
    logged = caplog.text
    vendor.script = [
        answer(status=500, text=f"bad key {canary}"),
        answer(status=400, text=f"bad key {canary}", headers={"x-request-id": canary, "request-id": canary}),
        answer(text=f"your key is {canary}", headers={"x-request-id": canary, "request-id": canary}),
        answer(status=401, text=f"Incorrect API key provided: {canary}"),
    ]
    calls = ask(provider, journal, REQUEST, REQUEST.model_copy(update={"repeat": 1}), concurrency=1)
    assert any(canary in value for value in vendor.seen[0].headers.values())
    with pytest.raises(ProviderError) as raised:
        ask(provider, journal, REQUEST.model_copy(update={"repeat": 2}))
    shown = "".join(c.model_dump_json() for c in [*calls, *journal.calls]) + str(raised.value) + logged
    assert "[key]" in shown
    assert canary not in shown
    assert raised.value.__cause__ is None


def test_clients_belong_to_their_loop(vendor, journal):
    provider = make("openai")

    async def once() -> str:
        reply = await provider.complete(REQUEST)
        await provider.aclose()
        await provider.aclose()
        return reply.text

    assert asyncio.run(once()) == asyncio.run(once())


def test_retry_after_header():
    assert retry_after_s({"Retry-After": "7"}) == 7
    assert retry_after_s({"retry-after-ms": "250", "Retry-After": "7"}) == 0.25
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, now=40.0) == 60
    for nonsense in ("", "soon", "-3", "nan", "inf", "Thu, 99 Foo"):
        assert retry_after_s({"Retry-After": nonsense}) is None
    assert retry_after_s({}) is None
