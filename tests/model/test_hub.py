"""What is said when the hub does not give something, over a hub on the loopback: one sentence, the reason, the cure."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.model.hub import why_not

GATED, UNKNOWN, OFFLINE = (401, "GatedRepo"), (404, "RepoNotFound"), ("someone/model", "someone/traces", "math500")
NAMES = {GATED: ("gated/model", "gated/traces", "math500"), UNKNOWN: ("no/model", "no/traces", "gpqa_diamond")}
"""What the hub says -> the model, the traces and the benchmark of which it says it."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """The address of a hub on which some repositories are gated and the others do not exist."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, code = GATED if "gated/" in self.path or "MATH-500" in self.path else UNKNOWN
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_HEAD

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


LOAD = """
import sys
from harness.benchmarks.catalogue import load_task
from harness.errors import HarnessError
from harness.model.subject import load_tokenizer
from harness.model.traces import DataConfig, load_traces
from harness.records import ModelRef
for names in sys.argv[1:]:
    model, traces, benchmark = names.split(",")
    for load in (
        lambda: load_tokenizer(ModelRef(path=model)),
        lambda: load_traces(DataConfig(path=traces)),
        lambda: load_task(benchmark),
    ):
        try:
            load()
        except HarnessError as error:
            print(error)
"""


def said(home: Path, *names: Sequence[str], **env: str) -> list[str]:
    """What is said of models, traces and benchmarks, by a new process, without a token and with an empty cache."""
    kept = {k: v for k, v in os.environ.items() if "PROXY" not in k.upper() and not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(",".join, names)],
        env={**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **env},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(names), done.stderr
    return lines


CURES = ("--set model.path=DIR", "--set data.path=FILE", "--set evaluate.data='{%s: FILE.jsonl}'")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_offline_names_the_cache_and_how_to_pass_a_copy(tmp_path: Path) -> None:
    for line, cure in zip(said(tmp_path, OFFLINE, HF_HUB_OFFLINE="1"), CURES, strict=True):
        assert f"cannot be reached, and it is not in the local cache {tmp_path}/.cache/huggingface/hub" in line
        assert cure.replace("%s", "math500") in line


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_gated_names_the_token_and_unknown_the_repository(hub: str, tmp_path: Path) -> None:
    lines = said(tmp_path, NAMES[GATED], NAMES[UNKNOWN], HF_ENDPOINT=hub)
    for line, cure in zip(lines[:3], CURES, strict=True):
        assert "it is gated" in line
        assert "HF_TOKEN" in line
        assert cure.replace("%s", "math500") in line
    for line, name in zip(lines[3:], ("no/model", "no/traces", "Idavidrein/gpqa"), strict=True):
        assert f"the hub has no '{name}'" in line


class GatedRepoError(Exception):
    """Called like the hub's own."""


def test_the_reason_is_found_behind_the_error_that_wraps_it() -> None:
    wrapped = OSError("something else\nand more")
    wrapped.__cause__ = GatedRepoError("403")
    assert "it is gated" in why_not("a/b", wrapped, "x")
    assert why_not("a/gated", OSError("first\nsecond"), "pass it") == "first; pass it"
    assert why_not("a/b", ConnectionError("refused"), "pass it").endswith("huggingface/hub; pass it")
