"""The client: sends requests with bounded concurrency, retries them, and stores each answer before it is used.

A call is in the journal before it is sent, so that what a kill leaves in doubt can be counted. An answer that is stored
is replayed, never sent (and paid) again. The event loop runs in the caller's thread, so the
journal is written by the thread that owns the database.

>>> client = Client.of(run, "explainer")
>>> requests = [LLMRequest(model=client.model, user=prompt) for prompt in prompts]
>>> for call in client.run(requests, on_call=lambda call: run.progress.advance()):
...     ...  # in request order
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from harness.contract.context import RunContext
from harness.contract.provider import CallStore, Provider
from harness.contract.session import Session
from harness.errors import HarnessError, UsageError
from harness.llm.batch import Batches, BatchProvider, BatchStore
from harness.llm.errors import BudgetSpent, CallFailed, Outage, Retryable
from harness.llm.pace import Pace
from harness.llm.prices import Price, find_price, require_price
from harness.records import LLMCall, LLMReply, LLMRequest, call_hash, capped

OnCall = Callable[[LLMCall], object]
Status = Literal["begun", "ok", "failed"]
_FIRST_WAIT_S = 0.5
_STANDSTILL_S = 0.01
"""Longest time for which answered calls are yielded before the event loop runs again."""


class Client:
    """Sends requests of one role to one provider.

    The provider's config says how fast, how often and how long (`concurrency`, `max_attempts`, `timeout_s`, ...).

    Args:
        provider: knows the vendor's wire format; makes one attempt, without retries of its own.
        calls: the journal: answers are looked up and stored here.
        role: what the calls are for, one of `harness.records.ROLES`; stored with each call.
        model: model that the study names for the role.
        session: the run's budget; without one there is no limit.
        rng: jitter of the pauses; give a seeded one.
        sleep: how to pause, for tests.

    Raises:
        UsageError: the budget is in money, and no price is known for the model.
    """

    def __init__(
        self,
        provider: Provider,
        calls: CallStore,
        role: str,
        *,
        model: str = "",
        session: Session | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._provider, self._calls, self._role, self.model = provider, calls, role, model
        self._config, self._session = provider.config, session or Session()
        self._rng, self._sleep = rng or random.Random(0), sleep
        self._settings = provider.config.identity()
        self._prices: dict[str, Price | None] = {}
        self._tasks: dict[str, asyncio.Task[LLMCall]] = {}
        self._begun: set[asyncio.Task[Any] | None] = set()
        self._in_flight: set[asyncio.Task[Any] | None] = set()
        self._in_doubt: set[str] = set()
        self._unstored: list[tuple[LLMCall, asyncio.Future[None]]] = []
        self._fatal: Exception | None = None
        self._given_up_in_a_row, self._running = 0, False
        self._resume_at = 0.0
        if model and self._session.max_cost_usd is not None:
            require_price(provider.name, model, self._config.prices)

    @classmethod
    def of(cls, run: RunContext, role: str) -> Self:
        """The client of a role of the study.

        Raises:
            UsageError: the study names no LLM for the role.
        """
        if run.provider is None or run.calls is None:
            raise UsageError(f"no LLM for the role {role!r}: name one with --provider NAME:MODEL, or in the registry")
        provider, model = run.provider(role)
        return cls(provider, run.calls, role, model=model, session=run.llm, rng=random.Random(run.seed))

    def key(self, request: LLMRequest) -> str:
        """The journal's hash: sha256 of the provider, those of its settings that decide an answer, and the request."""
        return call_hash(self._provider.name, self._settings, request)

    def run(self, requests: Sequence[LLMRequest], on_call: OnCall | None = None) -> Iterator[LLMCall]:
        """Yield one call per request, in request order, as soon as it and those before it are answered.

        Equal requests are sent once. The event loop does not run while the consumer works on a call: keep that short.
        Ctrl-C, or closing the iterator, loses only the calls in flight.

        Args:
            requests: what to ask.
            on_call: told of every distinct call when it is answered, replayed or given up, in that order (progress).

        Raises:
            ProviderError: no call can succeed (no key, wrong key, unknown model, budget spent, outage). Calls in flight
                are waited for and stored first.
        """
        keys = [self.key(request) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        answered = self._calls.find(wanted)
        missing = {key: request for key, request in wanted.items() if key not in answered}
        if missing:
            answered |= self._in_batches(missing)
            missing = {key: request for key, request in missing.items() if key not in answered}
        if on_call is not None:
            for key in wanted:
                if key in answered:
                    on_call(answered[key])
        if missing:
            yield from self._ask(keys, answered, missing, on_call)
        else:
            yield from (answered[key] for key in keys)

    def _in_batches(self, missing: Mapping[str, LLMRequest]) -> dict[str, LLMCall]:
        """Collect calls that were submitted in a batch (never sent singly too); with --llm-batch, submit new ones."""
        provider, store = self._provider, self._calls
        if not isinstance(provider, BatchProvider) or not isinstance(store, BatchStore):
            if self._session.batch:
                raise UsageError(f"{provider.name} has no batch API: run without --llm-batch")
            return {}
        if not self._session.batch and not store.open_batches(provider.name, self._settings):
            return {}
        batches = Batches(provider, provider.name, store, self._role, self._session)

        async def settle() -> dict[str, LLMCall]:
            try:
                submit = self._session.batch
                return await batches.settle(missing, self._settings, self._config.prices, submit=submit)
            finally:
                await self._provider.aclose()

        return asyncio.run(settle())

    def _ask(
        self,
        keys: Sequence[str],
        answered: dict[str, LLMCall],
        missing: Mapping[str, LLMRequest],
        on_call: OnCall | None,
    ) -> Iterator[LLMCall]:
        if self._running:
            raise RuntimeError("a Client does one run at a time: exhaust or close the first iterator")
        self._running = True
        with asyncio.Runner() as runner:
            try:
                runner.run(self._start(missing, on_call))
                turned = time.monotonic()
                for key in keys:
                    if key not in answered:
                        task = self._tasks[key]
                        # entering the loop costs as much as a tenth of a call: not for each of those that are answered
                        if not task.done() or self._fatal is not None or time.monotonic() - turned > _STANDSTILL_S:
                            runner.run(self._wait(task))
                            turned = time.monotonic()
                        answered[key] = task.result()
                    yield answered[key]
            finally:
                self._running = False
                runner.run(self._finish())

    async def _start(self, missing: Mapping[str, LLMRequest], on_call: OnCall | None) -> None:
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._pace = Pace(self._config.requests_per_minute, self._config.tokens_per_minute)
        self._room = asyncio.Condition()
        self._begun, self._in_doubt = set(), set()
        self._fatal, self._given_up_in_a_row = None, 0
        self._tasks = {
            key: asyncio.create_task(self._guarded(key, request, on_call)) for key, request in missing.items()
        }

    async def _wait(self, task: asyncio.Task[LLMCall]) -> None:
        # asyncio.wait, unlike awaiting the task, does not cancel it when Ctrl-C cancels this coroutine
        await asyncio.wait({task})
        if self._fatal is not None and (task.cancelled() or task.exception() is not None):
            await asyncio.wait(self._tasks.values())
            raise self._fatal

    async def _finish(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._store_waiting()
        await self._provider.aclose()

    async def _guarded(self, key: str, request: LLMRequest, on_call: OnCall | None) -> LLMCall:
        try:
            async with self._slots:
                call = await self._call(key, request)
            if on_call is not None:
                on_call(call)
            return call
        except Exception as error:
            # No further call can succeed. Calls in flight are paid for and may end; if only the budget is spent, calls
            # that it covers may also make further attempts. No other call is begun.
            self._fatal = self._fatal or error
            spared = self._begun if isinstance(error, BudgetSpent) else self._in_flight
            for task in self._tasks.values():
                if task not in spared and task is not asyncio.current_task():
                    task.cancel()
            raise

    async def _call(self, key: str, request: LLMRequest) -> LLMCall:
        most_usd = self._most_usd(request)
        await self._reserve(most_usd)
        call: LLMCall | None = None
        try:
            began = time.monotonic()
            await self._store_soon(self._record(key, request, "begun", None, None, 0, 0.0, final=False))
            reply, error, n_attempts = await self._attempts(key, request, most_usd)
            # from here to the journal's queue nothing is awaited: an answer that came cannot be cancelled away
            final = reply is not None or not isinstance(error, Retryable)
            seconds = time.monotonic() - began
            status: Status = "failed" if reply is None else "ok"
            said = str(error) if error else None
            call = self._record(key, request, status, reply, said, n_attempts, seconds, final=final)
            stored = self._store_soon(call)
        finally:
            self._session.settle(most_usd, 0.0 if call is None or call.reply is None else call.price_usd)
            self._begun.discard(asyncio.current_task())
            if call is None and key not in self._in_doubt:
                self._calls.withdraw([key])
        async with self._room:
            self._room.notify_all()
        await stored
        self._given_up_in_a_row = 0 if call.reply is not None else self._given_up_in_a_row + 1
        if self._given_up_in_a_row >= self._config.outage_after:
            raise Outage(self._provider.name, self._given_up_in_a_row, call.error or "")
        return call

    async def _reserve(self, most_usd: float) -> None:
        """Wait until the budget has room for the call.

        Raises:
            BudgetSpent: it has none, and no call of ours is in flight that could cost less than was reserved for it.
        """
        async with self._room:
            while not self._session.fits(most_usd):
                if not self._begun or self._session.calls_are_spent():
                    raise BudgetSpent(self._role, self._session, most_usd)
                await self._room.wait()
            self._session.reserve(most_usd)
            self._begun.add(asyncio.current_task())

    async def _attempts(
        self, key: str, request: LLMRequest, most_usd: float
    ) -> tuple[LLMReply | None, CallFailed | None, int]:
        """Try until it is answered, refused or given up: (reply, failure, attempts made)."""
        n = 0
        while True:
            n += 1
            failure: CallFailed
            try:
                return await self._attempt(key, request), None, n
            except TimeoutError:
                failure = Retryable(f"no answer within {self._config.timeout_s:g} s", charged=True)
            except CallFailed as error:
                failure = error
            if not isinstance(failure, Retryable):
                return None, failure, n
            if failure.charged:
                self._session.doubt(most_usd)
            asked_s = failure.retry_after_s or 0.0
            if asked_s > self._config.max_wait_s:
                limit = f"max_wait_s is {self._config.max_wait_s:g}"
                return None, Retryable(f"{failure} (asked to wait {asked_s:.0f} s, {limit})"), n
            if n == self._config.max_attempts or self._ended() or not self._session.affords(0.0):
                return None, failure, n
            # a rate limit holds for the account, not for the call: no call is sent before its end
            self._resume_at = max(self._resume_at, time.monotonic() + asked_s)
            await self._sleep(self._pause_s(n, failure.retry_after_s))

    def _ended(self) -> bool:
        return self._fatal is not None and not isinstance(self._fatal, BudgetSpent)

    async def _attempt(self, key: str, request: LLMRequest) -> LLMReply:
        early_s = self._resume_at - time.monotonic()
        if early_s > 0:
            await self._sleep(early_s * (1 + 0.1 * self._rng.random()))
        counted = await self._pace.wait(request)
        task = asyncio.current_task()
        self._in_flight.add(task)
        self._in_doubt.add(key)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                reply = capped(await self._provider.complete(request))
        except HarnessError as error:
            if not (isinstance(error, Retryable) and error.charged):
                self._in_doubt.discard(key)
            raise
        finally:
            self._in_flight.discard(task)
        self._pace.answered(reply, counted)
        return reply

    def _pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Exponential, with the upper half random; at least the vendor's Retry-After; never above `max_wait_s`."""
        pause = _FIRST_WAIT_S * 2.0 ** (attempt - 1) * (0.5 + 0.5 * self._rng.random())
        if retry_after_s is not None:
            # spread over a tenth, so that calls that were turned away together do not come back together
            pause = max(pause, retry_after_s * (1 + 0.1 * self._rng.random()))
        return min(pause, max(self._config.max_wait_s, retry_after_s or 0.0))

    def _record(
        self,
        key: str,
        request: LLMRequest,
        status: Status,
        reply: LLMReply | None,
        error: str | None,
        n_attempts: int,
        latency_s: float,
        *,
        final: bool,
    ) -> LLMCall:
        price = self._price(request.model)
        return LLMCall(
            key=key,
            provider=self._provider.name,
            settings=self._settings,
            role=self._role,
            request=request,
            status=status,
            reply=reply,
            error=error,
            n_attempts=n_attempts,
            latency_s=latency_s,
            price_usd=price.usd(reply) if price and reply else None,
            price_date=price.as_of if price and reply else None,
            final=final,
        )

    def _store_soon(self, call: LLMCall) -> asyncio.Future[None]:
        """Queue a call for the journal: what begins or ends in one turn of the loop is one transaction."""
        loop = asyncio.get_running_loop()
        if not self._unstored:
            loop.call_soon(self._store_waiting)
        stored: asyncio.Future[None] = loop.create_future()
        self._unstored.append((call, stored))
        return stored

    def _store_waiting(self) -> None:
        waiting, self._unstored = self._unstored, []
        if not waiting:
            return
        error: Exception | None = None
        try:
            if ended := [call for call, _ in waiting if call.status != "begun"]:
                self._calls.store(ended)
            # a call that was cancelled before this will not be sent
            if begun := [call for call, stored in waiting if call.status == "begun" and not stored.cancelled()]:
                self._calls.begin(begun)
        except Exception as failure:  # noqa: BLE001 - handed to those who wait for it
            error = failure
        for _, stored in waiting:
            if not stored.done():
                stored.set_exception(error) if error else stored.set_result(None)

    def _price(self, model: str) -> Price | None:
        if model not in self._prices:
            self._prices[model] = find_price(self._provider.name, model, self._config.prices)
        return self._prices[model]

    def _most_usd(self, request: LLMRequest) -> float:
        """The most that the call can cost; 0 where the run has no budget in money.

        Raises:
            UsageError: the run has one, and the model has no price.
        """
        if self._session.max_cost_usd is None:
            return 0.0
        price = self._price(request.model) or require_price(self._provider.name, request.model, self._config.prices)
        return price.most_usd(request)


__all__ = ["Client", "OnCall"]
