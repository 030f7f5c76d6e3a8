"""The client: sends requests with bounded concurrency, retries them, and stores each answer before it is used.

An answer that is stored is replayed, never sent (and paid) again. The event loop runs in the caller's thread, so the
journal is written by the thread that owns the database.

>>> client = Client(provider, run.calls, "explainer", rng=random.Random(run.seed))
>>> for call in client.run(requests, on_call=lambda call: run.progress.advance()):
...     ...  # in request order
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from harness.calls import LLMCall, LLMReply, LLMRequest
from harness.config import digest
from harness.errors import UsageError
from harness.llm.errors import BudgetSpent, CallFailed, Outage, Retryable
from harness.stages import CallStore, Provider

OnCall = Callable[[LLMCall], object]
_FIRST_WAIT_S = 0.5


class Client:
    """Sends requests of one role to one provider.

    Args:
        provider: knows the vendor's wire format; makes one attempt, without retries of its own.
        calls: the journal: answers are looked up and stored here.
        role: what the calls are for, e.g. `explainer`; stored with each call.
        concurrency: most requests in flight.
        max_attempts: attempts per call before it is given up (stored as `failed`, asked again by the next run).
        timeout_s: longest wait for one attempt.
        max_retry_sleep_s: longest pause between attempts, also where the vendor's Retry-After asks for more.
        max_calls: most calls that this client may send (retries not counted, replays free); None is no limit.
        outage_after: calls given up in a row that end the run instead of failing one by one.
        rng: jitter of the pauses; give a seeded one.
        sleep: how to pause, for tests.
    """

    def __init__(
        self,
        provider: Provider,
        calls: CallStore,
        role: str,
        *,
        concurrency: int = 16,
        max_attempts: int = 5,
        timeout_s: float = 120.0,
        max_retry_sleep_s: float = 60.0,
        max_calls: int | None = None,
        outage_after: int = 20,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if concurrency < 1 or max_attempts < 1 or timeout_s <= 0:
            raise UsageError("concurrency and max_attempts must be at least 1, timeout_s greater than 0")
        self._provider, self._calls, self._role = provider, calls, role
        self._concurrency, self._max_attempts, self._timeout_s = concurrency, max_attempts, timeout_s
        self._max_retry_sleep_s, self._max_calls, self._outage_after = max_retry_sleep_s, max_calls, outage_after
        self._rng, self._sleep = rng or random.Random(0), sleep
        self._tasks: dict[str, asyncio.Task[LLMCall]] = {}
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._fatal: Exception | None = None
        self._given_up_in_a_row, self._running = 0, False
        self.n_sent = 0
        """Calls sent so far; replays are not counted."""

    def key(self, request: LLMRequest) -> str:
        """The journal's hash: sha256 of the provider's name and the request."""
        return digest({"provider": self._provider.name, "request": request.model_dump(mode="json")})

    def run(self, requests: Sequence[LLMRequest], on_call: OnCall | None = None) -> Iterator[LLMCall]:
        """Yield one call per request, in request order, as soon as it and those before it are answered.

        Equal requests are sent once. The loop stands still while the consumer works on a call, so keep that short.
        Ctrl-C, or closing the iterator, loses only the calls in flight.

        Args:
            requests: what to ask.
            on_call: told of every distinct call when it is answered, replayed or given up, in that order (progress).

        Raises:
            ProviderError: no call can succeed (no key, wrong key, unknown model, budget spent, outage). Calls in flight
                are waited for and stored first.
        """
        keys = [self.key(request) for request in requests]
        known: dict[str, LLMCall] = {}
        missing: dict[str, LLMRequest] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in known or key in missing:
                continue
            stored = self._calls.lookup(key)
            if stored is None or stored.status != "ok":
                missing[key] = request
                continue
            known[key] = stored
            if on_call is not None:
                on_call(stored)
        if missing:
            yield from self._ask(keys, known, missing, on_call)
        else:
            yield from (known[key] for key in keys)

    def _ask(
        self,
        keys: Sequence[str],
        known: dict[str, LLMCall],
        missing: Mapping[str, LLMRequest],
        on_call: OnCall | None,
    ) -> Iterator[LLMCall]:
        if self._running:
            raise RuntimeError("a Client does one run at a time: exhaust or close the first iterator")
        self._running = True
        with asyncio.Runner() as runner:
            try:
                runner.run(self._start(missing, on_call))
                for key in keys:
                    if key not in known:
                        if key not in self._tasks and self._max_calls is not None:
                            # those that were allowed come first, so all of them are answered and stored by now
                            raise BudgetSpent(self._role, self._max_calls)
                        known[key] = runner.run(self._wait(self._tasks[key]))
                    yield known[key]
            finally:
                self._running = False
                runner.run(self._finish())

    async def _start(self, missing: Mapping[str, LLMRequest], on_call: OnCall | None) -> None:
        slots = asyncio.Semaphore(self._concurrency)
        self._fatal, self._given_up_in_a_row = None, 0
        left = None if self._max_calls is None else max(0, self._max_calls - self.n_sent)
        self._tasks = {
            key: asyncio.create_task(self._guarded(key, request, slots, on_call))
            for key, request in islice(missing.items(), left)
        }

    async def _wait(self, task: asyncio.Task[LLMCall]) -> LLMCall:
        # asyncio.wait, unlike awaiting the task, does not cancel it when Ctrl-C cancels this coroutine
        await asyncio.wait({task})
        if self._fatal is not None and (task.cancelled() or task.exception() is not None):
            await asyncio.wait(self._tasks.values())
            raise self._fatal
        return task.result()

    async def _finish(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._provider.aclose()

    async def _guarded(
        self, key: str, request: LLMRequest, slots: asyncio.Semaphore, on_call: OnCall | None
    ) -> LLMCall:
        try:
            async with slots:
                call = await self._call(key, request)
            if on_call is not None:
                on_call(call)
            return call
        except Exception as error:
            # No call can succeed now. Those in flight are paid for and may end; the others are not begun.
            self._fatal = self._fatal or error
            for task in self._tasks.values():
                if task not in self._in_flight and task is not asyncio.current_task():
                    task.cancel()
            raise

    async def _call(self, key: str, request: LLMRequest) -> LLMCall:
        self.n_sent += 1
        began = time.monotonic()
        reply, error, n_attempts = await self._attempts(request)
        status: Literal["ok", "failed"] = "ok" if reply is not None else "failed"
        call = LLMCall(
            key=key,
            provider=self._provider.name,
            role=self._role,
            request=request,
            status=status,
            reply=reply,
            error=error,
            n_attempts=n_attempts,
            latency_s=time.monotonic() - began,
        )
        self._calls.store(call)
        self._given_up_in_a_row = 0 if reply is not None else self._given_up_in_a_row + 1
        if self._given_up_in_a_row >= self._outage_after:
            raise Outage(self._provider.name, self._given_up_in_a_row, error or "")
        return call

    async def _attempts(self, request: LLMRequest) -> tuple[LLMReply | None, str | None, int]:
        """Try until it is answered, refused or given up: (reply, error, attempts made)."""
        for n in range(1, self._max_attempts + 1):
            failure: CallFailed
            try:
                return await self._attempt(request), None, n
            except TimeoutError:
                failure = Retryable(f"no answer within {self._timeout_s:g} s")
            except CallFailed as error:
                failure = error
            if not isinstance(failure, Retryable) or n == self._max_attempts or self._fatal is not None:
                return None, str(failure), n
            await self._sleep(self._pause_s(n, failure.retry_after_s))
        raise AssertionError("unreachable: the last attempt returns")

    async def _attempt(self, request: LLMRequest) -> LLMReply:
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._provider.complete(request)
        finally:
            self._in_flight.discard(task)

    def _pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Exponential, with the upper half random; at least the vendor's Retry-After; never above the cap."""
        pause = _FIRST_WAIT_S * 2.0 ** (attempt - 1) * (0.5 + 0.5 * self._rng.random())
        if retry_after_s is not None:
            # spread over a tenth, so that calls that were turned away together do not come back together
            pause = max(pause, retry_after_s * (1 + 0.1 * self._rng.random()))
        return min(pause, self._max_retry_sleep_s)
