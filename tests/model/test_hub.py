"""What is said when the hub does not give something, over a hub on the loopback: one sentence, the reason, the cure."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.model.hub import why_not

Hub = Callable[[int, str], str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Start a hub that answers every request with one status and error code; returns its address."""
    servers = []

    def start(status: int, code: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_HEAD

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


LOAD = """
import sys
from harness.benchmarks.catalogue import load_task
from harness.errors import HarnessError
from harness.model.subject import load_tokenizer
from harness.model.traces import DataConfig, load_traces
from harness.records import ModelRef
for load in (
    lambda: load_tokenizer(ModelRef(path="someone/model")),
    lambda: load_traces(DataConfig(path="someone/traces")),
    lambda: load_task("math500"),
):
    try:
        load()
    except HarnessError as error:
        print(error)
"""


def said(home: Path, **env: str) -> list[str]:
    """What is said of a model, of traces and of a benchmark, without a token and with an empty cache."""
    kept = {k: v for k, v in os.environ.items() if "PROXY" not in k.upper() and not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env={**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **env},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    return lines


CURES = ("--set model.path=DIR", "--set data.path=FILE", "--set evaluate.data='{math500: FILE.jsonl}'")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_offline_names_the_cache_and_how_to_pass_a_copy(tmp_path: Path) -> None:
    for line, cure in zip(said(tmp_path, HF_HUB_OFFLINE="1"), CURES, strict=True):
        assert f"cannot be reached, and it is not in the local cache {tmp_path}/.cache/huggingface/hub" in line
        assert cure in line


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_gated_names_the_token(hub: Hub, tmp_path: Path) -> None:
    for line, cure in zip(said(tmp_path, HF_ENDPOINT=hub(401, "GatedRepo")), CURES, strict=True):
        assert "it is gated" in line
        assert "HF_TOKEN" in line
        assert cure in line


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_unknown_names_the_repository(hub: Hub, tmp_path: Path) -> None:
    names = ("someone/model", "someone/traces", "HuggingFaceH4/MATH-500")
    for line, name in zip(said(tmp_path, HF_ENDPOINT=hub(404, "RepoNotFound")), names, strict=True):
        assert f"the hub has no '{name}'" in line


class GatedRepoError(Exception):
    """Called like the hub's own."""


def test_the_reason_is_found_behind_the_error_that_wraps_it() -> None:
    wrapped = OSError("something else\nand more")
    wrapped.__cause__ = GatedRepoError("403")
    assert "it is gated" in why_not("a/b", wrapped, "x")
    assert why_not("a/gated", OSError("first\nsecond"), "pass it") == "first; pass it"
    assert why_not("a/b", ConnectionError("refused"), "pass it").endswith("huggingface/hub; pass it")
