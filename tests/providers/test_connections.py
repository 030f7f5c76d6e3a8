"""The HTTP client under both SDKs: what it must not lose of what theirs does."""

import asyncio
import gzip
import json
import socket

import pytest

from harness.llm.errors import Retryable
from harness.records import LLMRequest
from harness_plugins.providers import anthropic_messages, openai_chat

REQUEST = LLMRequest(model="some-model", user="Explain.", max_tokens=100)
MODULES = {"openai": openai_chat, "anthropic": anthropic_messages}


@pytest.fixture(params=sorted(MODULES))
def name(request):
    return request.param


def complete(name, **settings):
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    provider = registration.implementation()(registration.config(**settings))

    async def once():
        try:
            return await provider.complete(REQUEST)
        finally:
            await provider.aclose()

    return asyncio.run(once())


def test_the_environments_proxy_is_used_and_no_proxy_obeyed(vendor, name, monkeypatch):
    monkeypatch.setenv("http_proxy", vendor.url)
    assert complete(name, base_url="http://llm.invalid/v1").finish_reason in ("stop", "end_turn")
    assert vendor.seen[0].path.startswith("http://llm.invalid/v1/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    complete(name)
    assert vendor.seen[1].path.startswith("/v1/")


def test_redirects_are_followed_with_the_body(vendor, name, answer):
    path = "/v1/messages" if name == "anthropic" else "/v1/chat/completions"
    vendor.script = [answer(status=307, headers={"Location": path})]
    complete(name)
    assert [seen.body["model"] for seen in vendor.seen] == ["some-model", "some-model"]


def test_compressed_bodies_and_odd_headers_are_read(vendor, name, answer):
    message = {"role": "assistant", "content": "packed"}
    packed = {"choices": [{"message": message}], "content": [{"type": "text", "text": "packed"}]}
    body = gzip.compress(json.dumps(packed).encode())
    vendor.script = [answer(body=body, headers={"Content-Encoding": "gzip", "x-odd": "caf\xe9"})]
    assert complete(name).text == "packed"


def test_an_answer_may_be_charged_once_the_request_was_sent(vendor, name, answer):
    vendor.script = [answer(hang_up=True), answer(sleep_s=3)]
    with pytest.raises(Retryable, match="no connection") as broken:
        complete(name)
    with pytest.raises(Retryable, match="no connection") as silent:
        complete(name, timeout_s=1)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Retryable, match="no connection") as unreached:
            complete(name, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (broken.value.charged, silent.value.charged, unreached.value.charged) == (True, True, False)


def test_the_sdks_tell_nothing_of_this_machine(vendor, name, canary):
    complete(name)
    headers = vendor.seen[0].headers
    assert headers["authorization"] == f"Bearer {canary}" or headers["x-api-key"] == canary
    assert not [header for header in headers if "stainless" in header]
