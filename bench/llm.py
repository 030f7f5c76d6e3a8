"""LLM calls: 1,000 of them with 64 in flight, journal and all, against the bare SDK; and replaying 10,000."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from bench.measure import Ratio, compare
from harness.llm.client import Client
from harness.records import LLMCall, LLMReply, LLMRequest
from harness.store.journal import Journal
from harness.store.writer import Store
from harness_plugins.providers import openai_chat

N_CALLS, N_REPLAYED, CONCURRENCY, LATENCY_S = 1000, 10_000, 64, 0.2
IDEAL_S = math.ceil(N_CALLS / CONCURRENCY) * LATENCY_S
"""Rounds of 64 calls, nothing but the server's latency."""


@contextmanager
def server() -> Iterator[str]:
    """A server that answers after `LATENCY_S`; ours runs on one core, it on another where there is one."""
    script = Path(__file__).with_name("llm_server.py")
    process = subprocess.Popen([sys.executable, str(script), str(LATENCY_S)], stdout=subprocess.PIPE, text=True)
    cores = os.sched_getaffinity(0)
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        if len(cores) > 1:
            os.sched_setaffinity(process.pid, {max(cores)})
        os.sched_setaffinity(0, {min(cores)})
        with mock.patch.dict(os.environ, {"OPENAI_API_KEY": "none"}):
            yield url
    finally:
        os.sched_setaffinity(0, cores)
        process.kill()
        process.wait()


def prompts(n: int, round_: int) -> list[LLMRequest]:
    """Requests of the size of a feature's evidence (4 kB), new ones in every round."""
    text = "and then 3 × 4 = 12. Wait, let me check: " * 100
    return [LLMRequest(model="m", user=f"{round_}/{i} {text}", max_tokens=100) for i in range(n)]


def journalled(folder: Path) -> Journal:
    """A journal in a new database."""
    return Journal(Store.open(folder / "results.db").engine, "bench", step_id=None)


def calls() -> Ratio:
    """The client with its journal against gather and a semaphore over the openai SDK, its default transport."""
    from openai import AsyncOpenAI

    registration = next(r for r in openai_chat.harness_providers() if r.name == "openai")
    rounds = iter(range(1000))
    with server() as url, tempfile.TemporaryDirectory() as folder:
        provider = registration.implementation()(registration.config(base_url=url, concurrency=CONCURRENCY))
        journal, took, cpu_s = journalled(Path(folder)), [], []

        def ours() -> None:
            requests = prompts(N_CALLS, next(rounds))
            began, began_cpu = time.perf_counter(), time.process_time()
            answered = sum(call.status == "ok" for call in Client(provider, journal, "explainer").run(requests))
            took.append(time.perf_counter() - began)
            cpu_s.append(time.process_time() - began_cpu)
            assert answered == N_CALLS

        async def bare() -> None:
            slots = asyncio.Semaphore(CONCURRENCY)
            async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

                async def ask(request: LLMRequest) -> str | None:
                    async with slots:
                        done = await client.chat.completions.create(
                            model="m", messages=[{"role": "user", "content": request.user}], max_completion_tokens=100
                        )
                        return done.choices[0].message.content

                assert all(await asyncio.gather(*(ask(r) for r in prompts(N_CALLS, 0))))

        name = f"{N_CALLS:,} calls, {CONCURRENCY} in flight, {LATENCY_S * 1000:.0f} ms each, journalled, one core"
        ratio = compare(name, "openai SDK with gather, no journal", ours, lambda: asyncio.run(bare()))
    best, cpu_ms = min(took) / IDEAL_S, 1000 * min(cpu_s) / N_CALLS
    note = (
        f"{ratio.ours_s / IDEAL_S:.2f} x the ideal {IDEAL_S:.2f} s (best round {best:.2f}), "
        f"{cpu_ms:.2f} ms of CPU per call (least), load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return ratio.noting(note)


def replay() -> Ratio:
    """Looking up 10,000 journalled calls, against reading and parsing the same rows with sqlite3 and json."""
    import json
    import sqlite3

    registration = next(r for r in openai_chat.harness_providers() if r.name == "openai")
    provider = registration.implementation()(registration.config(base_url="http://127.0.0.1:9/v1"))
    requests = prompts(N_REPLAYED, 0)
    with tempfile.TemporaryDirectory() as folder:
        journal = journalled(Path(folder))
        client = Client(provider, journal, "explainer")
        reply = LLMReply(text='{"explanation": "digits", "classification": 0}', finish_reason="stop", model="m")
        journal.store([
            LLMCall(key=client.key(r), provider="openai", role="explainer", request=r, status="ok", reply=reply,
                    n_attempts=1, latency_s=0.1)
            for r in requests
        ])  # fmt: skip

        def ours() -> None:
            assert sum(call.status == "ok" for call in client.run(requests)) == N_REPLAYED

        def theirs() -> None:
            with sqlite3.connect(Path(folder) / "results.db") as connection:
                rows = connection.execute("SELECT key, request_json, response_json FROM llm_call").fetchall()
            assert len({key: (json.loads(a), json.loads(b)) for key, a, b in rows}) == N_REPLAYED

        return compare(f"replay of {N_REPLAYED:,} calls", "sqlite3 and json, all rows, no hashes", ours, theirs)


BENCHES = (calls, replay)
