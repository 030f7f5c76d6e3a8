"""A server on the loopback that speaks both vendors' wire formats, well and badly, and counts what it is asked."""

import json
import math
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.testing import MemoryCalls
from tests.commands import Warm, command_environment
from tests.once import once

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


@dataclass
class BatchRoom:
    """The batch APIs' state: `ready` lets batches end; `lose` answers a submission before or after it is taken."""

    ready: bool = False
    lose: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcome: Callable[[int], tuple[int, str] | None] = lambda i: (200, "")
    """Index of a call -> its HTTP status and error message; None: the batch expires before it."""


class FakeVendor:
    """`script` is used up one answer per request; then `default` answers."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.default = Answer()
        self.choose: Callable[[dict[str, Any]], Answer] | None = None
        self.seen: list[Seen] = []
        self.batches = BatchRoom()
        self.hold_after = math.inf
        """Requests after so many are not answered before it is raised."""
        self.in_flight = self.most_in_flight = self.connections = 0
        self.lock = threading.Lock()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def next(self, seen: Seen) -> Answer:
        with self.lock:
            self.seen.append(seen)
            n = len(self.seen)
            if self.script:
                return self.script.pop(0)
        while n > self.hold_after:
            time.sleep(0.005)
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


def batch_view(room: BatchRoom, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as its vendor shows it."""
    n, stamp = len(batch["asked"]), datetime.fromtimestamp(batch["at"], UTC).isoformat()
    if batch["openai"]:
        view = {"id": batch["id"], "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h",
                "created_at": int(batch["at"]), "input_file_id": "f", "metadata": batch["metadata"],
                "status": "in_progress"}  # fmt: skip
        if room.ready:
            lines = [outcome_line(room, i, key, body) for i, (key, body) in enumerate(batch["asked"])]
            room.files["out"] = "\n".join(json.dumps(x) for x in lines[::-1] if x and not x["error"])
            room.files["err"] = "\n".join(json.dumps(x) for x in lines if x and x["error"])
            view |= {"status": "completed", "output_file_id": "out", "error_file_id": "err"}
        return view
    done = n if room.ready else 0
    counts = {"processing": n - done, "succeeded": done, "errored": 0, "canceled": 0, "expired": 0}
    view = {"id": batch["id"], "type": "message_batch", "processing_status": "in_progress", "request_counts": counts,
            "created_at": stamp, "expires_at": stamp, "ended_at": None, "archived_at": None,
            "cancel_initiated_at": None, "results_url": None}  # fmt: skip
    if room.ready:
        results_url = f"{batch['url']}/v1/messages/batches/{batch['id']}/results"
        view |= {"processing_status": "ended", "ended_at": stamp, "results_url": results_url}
    return view


def outcome_line(room: BatchRoom, i: int, key: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """A line of OpenAI's results."""
    told = room.outcome(i)
    if told is None:
        return {"id": "r", "custom_id": key, "response": None, "error": {"code": "batch_expired", "message": "late"}}
    status, message = told
    answered = _body(Answer(status=status, text=message or Answer().text), Seen("/v1/chat/completions", {}, body))
    response = {"status_code": status, "request_id": "r1", "body": json.loads(answered)}
    return {"id": "r", "custom_id": key, "response": response, "error": None}


def results(room: BatchRoom, path: str, vendor: FakeVendor) -> str:
    """Anthropic's results."""
    lines = []
    for i, (key, body) in enumerate(room.made[path.rsplit("/", 2)[1]]["asked"]):
        told = room.outcome(i)
        if told is None:
            result: dict[str, Any] = {"type": "expired"}
        elif told[0] == 200:
            message = json.loads(_body(Answer(), Seen("/v1/messages", {}, body)))
            result = {"type": "succeeded", "message": message}
        else:
            kind = "invalid_request_error" if told[0] == 400 else "api_error"
            error = {"type": "error", "request_id": None, "error": {"type": kind, "message": told[1]}}
            result = {"type": "errored", "error": error}
        lines.append(json.dumps({"custom_id": key, "result": result}))
    return "\n".join(reversed(lines))


def _handler(vendor: FakeVendor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.endswith("/files"):
                name = f"file-{len(vendor.batches.files)}"
                start = raw.index(b"\r\n\r\n", raw.index(b"filename=")) + 4
                vendor.batches.files[name] = raw[start : raw.index(b"\r\n--", start)].decode()
                return self.send({"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f",
                                  "purpose": "batch", "status": "processed"})  # fmt: skip
            seen = Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(raw))
            with vendor.lock:
                vendor.in_flight += 1
                vendor.most_in_flight = max(vendor.most_in_flight, vendor.in_flight)
            try:
                if "batches" in self.path:
                    self.submit(seen)
                else:
                    self.answer(vendor.next(seen), seen)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up first, as some tests mean it to
            finally:
                with vendor.lock:
                    vendor.in_flight -= 1

        def setup(self) -> None:
            super().setup()
            with vendor.lock:
                vendor.connections += 1

        def finish(self) -> None:
            with vendor.lock:
                vendor.connections -= 1
            super().finish()

        def do_GET(self) -> None:
            room, path = vendor.batches, self.path.partition("?")[0]
            last = path.rsplit("/", 1)[-1]
            if last == "batches":
                made = [batch_view(room, b) for b in reversed(room.made.values())]
                return self.send({"object": "list", "data": made, "has_more": False, "first_id": None, "last_id": None})
            if last in ("content", "results"):
                lines = room.files[path.rsplit("/", 2)[1]] if last == "content" else results(room, path, vendor)
                return self.send(lines.encode())
            return self.send(batch_view(room, room.made[last]))

        def submit(self, seen: Seen) -> None:
            room = vendor.batches
            if room.lose == "before":
                return self.answer(Answer(hang_up=True), seen)
            asked = (
                [(r["custom_id"], r["params"]) for r in seen.body["requests"]]
                if "messages" in seen.path
                else [
                    (r["custom_id"], r["body"])
                    for r in map(json.loads, room.files[seen.body["input_file_id"]].splitlines())
                ]
            )
            name = f"batch-{len(room.made)}"
            vendor.seen += [Seen("batch", seen.headers, body) for _, body in asked]
            room.made[name] = {"id": name, "asked": asked, "at": time.time(), "metadata": seen.body.get("metadata"),
                               "openai": "messages" not in seen.path, "url": vendor.url}  # fmt: skip
            if room.lose == "after":
                return self.answer(Answer(hang_up=True), seen)
            return self.send(batch_view(room, room.made[name]))

        def send(self, data: Any) -> None:
            body = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

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


ROSTER = """
version: 1
default_study: mini
plugins:
  - {name: rank1-lora, stage: trainers, module: harness_plugins.trainers.rank1_lora}
  - {name: adapter-activations, stage: probes, module: harness_plugins.probes.adapter_activations}
  - {name: autointerp, stage: interpreters, module: harness_plugins.interpreters.autointerp}
  - {name: openai, stage: providers, module: harness_plugins.providers.openai_chat, config: {concurrency: 4}}
studies:
  mini:
    summary: "a few features, explained and put into categories"
    model: {path: package://harness/organism/checkpoint}
    data: {path: package://harness/organism/data/traces.jsonl, trace: trace, answer: answer, limit: 16}
    adapter: rank1-lora
    probes: [adapter-activations]
    interpreters: [autointerp]
    # A repeat is the same request on the wire, and a server could not tell it from one that was sent twice.
    set: {rank1-lora.epochs: 1, grading.repeats: 0, grading.shuffles: 0, grading.recategorised: 0, scoring.features: 0}
"""


@pytest.fixture
def mini_study(warm: Warm, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """`tmp_path` with a registry whose study is a few features of the organism, explained and put into categories.

    The adapter is trained and its activations are stored; what is left is the LLM's.
    """

    def build(folder: Path) -> None:
        (folder / "registry.yaml").write_text(ROSTER)
        argv = ["run", "--plugin", "mini", "--device", "cpu", "--only", "probe"]
        done = warm.run(*argv, cwd=folder, env=command_environment())
        assert done.returncode == 0, done.stderr

    return Path(shutil.copytree(once(tmp_path_factory, "mini-study", build), tmp_path, dirs_exist_ok=True))
