"""`vllm serve` on the CPU with the organism. Run by `make test-vllm`, in an environment of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.organism import MODEL

if find_spec("vllm") is None:
    # Not collected where vLLM is not installed; `make test-vllm` fails where nothing is collected.
    collect_ignore_glob = ["test_*.py"]

GUIDED = '{"backend":"guidance","disable_any_whitespace":true}'
"""The one setting under which a model that was never taught JSON writes it: see docs/architecture.md."""
STARTS_WITHIN_S = 240


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that answers as `organism`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "serve.log"
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(MODEL), "--host", "127.0.0.1", "--port", str(port),
        "--served-model-name", "organism", "--dtype", "float32", "--enforce-eager", "--max-model-len", "8192",
        "--structured-outputs-config", GUIDED, "--generation-config", "vllm",
    ]  # fmt: skip
    settings = {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
        # the organism was trained on 320 tokens and a prompt has thousands: it answers nonsense, but in the form
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    }  # fmt: skip
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=stream, stderr=stream, cwd=log.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, url, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until:
        if server.poll() is not None:
            pytest.fail(f"vllm serve ended with {server.returncode}:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not answer within {STARTS_WITHIN_S} s:\n{log.read_text(errors='replace')[-4000:]}")
