"""The HTTP client under both SDKs: what it keeps of theirs, what it reads at most, and whom it asks."""

import asyncio
import gzip
import json
import logging
import resource
import socket
import threading
import time
import zlib

import pytest

from harness.errors import ProviderError, UsageError
from harness.llm.client import Client
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
    provider = registration.load()(registration.config(**settings))

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


@pytest.fixture
def stranger(vendor):
    other = type(vendor)()
    yield other
    other.httpd.shutdown()
    other.httpd.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_server_gets_neither_key_nor_prompt(vendor, stranger, name, answer, canary, status):
    elsewhere = f"{stranger.url}/v1/chat/completions?token=hunter2"
    vendor.default = answer(status=status, headers={"Location": elsewhere}, body=b"x" * 1000)
    with pytest.raises(ProviderError, match="refers its caller to another server") as refused:
        complete(name)
    assert stranger.url in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "set base_url" in str(refused.value)
    assert stranger.seen == []
    assert len(vendor.seen) == 1


def test_the_same_name_at_another_port_or_scheme_is_another_server(vendor, name, answer):
    for elsewhere in (vendor.url.replace("http", "https", 1), "http://127.0.0.1/v1", "//localhost/v1"):
        vendor.script = [answer(status=307, headers={"Location": elsewhere})]
        with pytest.raises(ProviderError, match="another server"):
            complete(name)


def test_a_redirect_without_end_is_given_up(vendor, name, answer):
    vendor.default = answer(status=307, headers={"Location": "/v1/again"})
    with pytest.raises(Retryable, match="no connection"):
        complete(name)
    assert len(vendor.seen) == 20


def raw_deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress, "deflate ": raw_deflate, "identity": bytes}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_response_is_read_up_to_a_limit_after_decompression(vendor, name, answer, packer, status):
    def padded(n):
        message = {"choices": [{"message": {"content": "x" * n}}], "content": [{"type": "text", "text": "x" * n}]}
        return PACKERS[packer](json.dumps(message).encode())

    headers = {"Content-Encoding": packer.strip()}
    vendor.script = [answer(body=padded(90_000), headers=headers), answer(body=padded(2**20), headers=headers)]
    vendor.script[1].status = status
    assert complete(name, max_response_bytes=2**20).text == "x" * 90_000
    with pytest.raises(Retryable, match=r"more than 1,048,576 bytes \(max_response_bytes\)") as failed:
        complete(name, max_response_bytes=2**20)
    assert failed.value.charged


@pytest.fixture(scope="module")
def bomb():
    """1 GiB in 1 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(1024)) + packer.flush()


def test_a_bomb_holds_up_nothing_and_takes_no_memory(vendor, name, answer, bomb):
    """Reading stops at the limit; meanwhile the loop turns."""
    vendor.script = [answer(body=bomb, headers={"Content-Encoding": "gzip"})]
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    provider = registration.load()(registration.config(max_response_bytes=2**26))
    pauses = []

    async def beat():
        while True:
            began = time.monotonic()
            await asyncio.sleep(0)
            pauses.append(time.monotonic() - began)

    async def explode():
        heart = asyncio.create_task(beat())
        try:
            with pytest.raises(Retryable, match="more than 67,108,864 bytes"):
                await provider.complete(REQUEST)
        finally:
            heart.cancel()
            await provider.aclose()

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(explode())
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 200 * 1024, "the limit of 64 MiB, and its pieces"
    # each piece is 1 MiB, a millisecond's work; a machine in use may take a hundred times as long
    assert max(pauses) < 1.0


def test_a_bomb_does_not_outlast_the_time_limit(vendor, name, answer, journal, bomb):
    vendor.default = answer(body=bomb, headers={"Content-Encoding": "gzip"})
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    config = registration.config(max_response_bytes=2**31, timeout_s=0.3, max_attempts=1)
    began = time.monotonic()
    (call,) = Client(registration.load()(config), journal, "explainer").run([REQUEST])
    assert call.error == "no answer within 0.3 s"
    assert time.monotonic() - began < 5


def test_a_body_without_end_is_not_waited_for(name, monkeypatch):
    """A server that never stops sending, without Content-Length."""
    listener = socket.create_server(("127.0.0.1", 0))
    sent = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            try:
                while True:
                    sent.append(connection.send(b" " * 65536))
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "none")
    with pytest.raises(Retryable, match="max_response_bytes"):
        complete(name, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", max_response_bytes=10**6)
    thread.join(30)
    assert not thread.is_alive(), "the connection is closed"
    assert sum(sent) < 50 * 10**6, "what fits into the sockets' buffers, not more"
    listener.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip, gzip, gzip, gzip, gzip, gzip", "br", "zstd"])
def test_what_cannot_be_decompressed_is_a_failure(vendor, name, answer, encoding):
    vendor.script = [answer(body=b"\x1f\x8b garbage", headers={"Content-Encoding": encoding})]
    with pytest.raises(Retryable, match=r"no connection|not JSON"):
        complete(name)


def test_user_info_and_query_of_an_address_are_used_and_not_shown(vendor, name, monkeypatch, answer, caplog, journal):
    address = vendor.url.replace("http://", "http://me:hunter2@") + "/v1?api_key=hunter3"
    monkeypatch.setenv(f"{name.upper()}_BASE_URL", address)
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    provider = registration.load()(registration.config())
    vendor.script = [answer(), answer(status=404, text=f"nothing at {address}")]
    with caplog.at_level(logging.DEBUG):
        (call,) = Client(provider, journal, "explainer").run([REQUEST])
        with pytest.raises(ProviderError, match="does not know") as unknown:
            list(Client(provider, journal, "explainer").run([REQUEST.model_copy(update={"repeat": 1})]))
    assert vendor.seen[0].path.startswith("/v1")
    assert vendor.seen[0].path.endswith("?api_key=hunter3")
    shown = call.model_dump_json() + str(unknown.value) + repr(provider.config.identity()) + caplog.text
    assert "hunter" not in shown
    assert "http://***@127.0.0.1" in str(unknown.value)
    assert call.settings["base_url"] == f"{vendor.url}/v1"


@pytest.mark.parametrize("address", ["https://me:hunter2@host/v1", "https://host/v1?api_key=hunter2"])
def test_a_setting_holds_no_secret_address(name, address):
    registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
    with pytest.raises(ValueError, match="settings are stored") as refused:
        registration.config(base_url=address)
    with pytest.raises(UsageError, match="settings are stored") as told:
        registration.config.merged(name, {"base_url": address})
    for sentence in (str(refused.value), str(told.value)):
        assert f"{name.upper()}_BASE_URL" in sentence
        assert "hunter2" not in sentence
