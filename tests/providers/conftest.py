"""A server on the loopback that speaks both vendors' wire formats, well and badly, and counts what it is asked."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from harness.testing import MemoryCalls

CANARY = "sk-canary-0123456789abcdef"


@dataclass
class Answer:
    """One response: a reply's text in the vendor's form, or a raw body."""

    text: str = '{"explanation": "digits", "classification": 0, "classification_reasoning": "all"}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    finish: str | None = None
    usage: dict[str, Any] | None = None
    sleep_s: float = 0.0
    hang_up: bool = False


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)


class FakeVendor:
    """`script` is used up one answer per request; then `default` answers."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.default = Answer()
        self.choose: Callable[[dict[str, Any]], Answer] | None = None
        self.seen: list[Seen] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def next(self, seen: Seen) -> Answer:
        with self.lock:
            self.seen.append(seen)
            if self.script:
                return self.script.pop(0)
        return self.choose(seen.body) if self.choose else self.default


def _body(answer: Answer, seen: Seen) -> bytes:
    if answer.body is not None:
        return answer.body
    model = seen.body.get("model")
    if answer.status != 200:
        return json.dumps({"type": "error", "error": {"type": "some_error", "message": answer.text}}).encode()
    if "messages" in seen.path:
        usage = answer.usage or {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2,
                                 "output_tokens": 7}  # fmt: skip
        content = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": answer.text}]
        data = {"id": "m", "type": "message", "role": "assistant", "model": model, "content": content,
                "stop_reason": answer.finish or "end_turn", "stop_sequence": None, "usage": usage}  # fmt: skip
        return json.dumps(data).encode()
    usage = answer.usage or {"prompt_tokens": 17, "completion_tokens": 7, "total_tokens": 24,
                             "prompt_tokens_details": {"cached_tokens": 5}}  # fmt: skip
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.finish == "refusal":
        message = {"role": "assistant", "content": None, "refusal": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish or "stop"}
    data = {"id": "c", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}
    return json.dumps(data).encode()


def _handler(vendor: FakeVendor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            seen = Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(self.rfile.read(length)))
            with vendor.lock:
                vendor.in_flight += 1
                vendor.most_in_flight = max(vendor.most_in_flight, vendor.in_flight)
            try:
                self.answer(vendor.next(seen), seen)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up first, as some tests mean it to
            finally:
                with vendor.lock:
                    vendor.in_flight -= 1

        def answer(self, answer: Answer, seen: Seen) -> None:
            if answer.sleep_s:
                time.sleep(answer.sleep_s)
            if answer.hang_up:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            body = _body(answer, seen)
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", "x-request-id": "r1", "request-id": "r1", **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVendor]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeVendor()
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{fake.url}/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", fake.url)
    yield fake
    fake.httpd.shutdown()
    fake.httpd.server_close()


@pytest.fixture
def answer() -> type[Answer]:
    return Answer


@pytest.fixture
def canary() -> str:
    return CANARY


@pytest.fixture
def journal() -> MemoryCalls:
    return MemoryCalls()
