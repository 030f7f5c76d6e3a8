"""Vendors' batch APIs: half the price, answers within a day. Submit, leave, run again, collect; each call once.

A batch and its calls are in the journal before they are sent. If a run ends after the vendor took the batch and before
its id was stored, the next run looks for the batch at the vendor before it submits anything again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from harness.contract.session import Session
from harness.errors import ProviderError, Waiting
from harness.llm.errors import BudgetSpent, CallFailed, Refused, Retryable
from harness.llm.prices import find_price, require_price
from harness.records import LLMCall, LLMReply, LLMRequest, OpenBatch, capped

Outcome = LLMReply | CallFailed | ProviderError
"""What became of a call in a batch; a ProviderError would have ended the run, had the call been sent by itself."""

P = ParamSpec("P")
T = TypeVar("T")
_ATTEMPTS = 5


@runtime_checkable
class BatchProvider(Protocol):
    """What a provider with a batch API has in addition to `harness.contract.provider.Provider`."""

    MOST_CALLS: int
    """Largest number of calls in one batch."""

    async def submit(self, label: str, requests: Mapping[str, LLMRequest]) -> str:
        """Submit requests (journal hash -> request) in one attempt; returns the vendor's id of the batch.

        Raises:
            Retryable: with `charged`, it is not known whether the vendor has the batch; otherwise it does not.
            CallFailed, ProviderError: the vendor does not have the batch.
        """
        ...

    async def find(self, batch: OpenBatch, known_ids: frozenset[str]) -> str | None:
        """The vendor's id of a batch that may not have arrived; None where it did not.

        Raises:
            Waiting: the vendor cannot tell yet.
        """
        ...

    async def collect(self, vendor_id: str, keys: Collection[str]) -> Mapping[str, Outcome] | None:
        """What became of its calls (`keys`, journal hashes); None while it runs. One that is missing was not answered.

        Raises:
            Retryable: the results cannot be read now.
        """
        ...


@runtime_checkable
class BatchStore(Protocol):
    """What a journal that keeps batches has in addition to `harness.contract.provider.CallStore`."""

    def open_batches(self, provider: str, settings: Mapping[str, object]) -> list[OpenBatch]:
        """Batches of the provider that are not collected yet, of all steps."""
        ...

    def begin_batch(self, label: str, role: str, calls: Sequence[LLMCall]) -> None:
        """Store a batch and its calls (`submitted`) before the batch is sent."""
        ...

    def confirm_batch(self, label: str, vendor_id: str) -> None:
        """Store that the vendor has the batch."""
        ...

    def end_batch(self, label: str, calls: Sequence[LLMCall], reason: str | None = None) -> None:
        """Store what became of its calls. Without calls it never arrived, and its calls are asked again."""
        ...


class Batches:
    """The batches of one role at one provider."""

    def __init__(self, provider: BatchProvider, name: str, store: BatchStore, role: str, session: Session) -> None:
        """`name` is the provider's."""
        self._provider, self._name, self._store, self._role, self._session = provider, name, store, role, session

    async def settle(
        self, missing: Mapping[str, LLMRequest], settings: Mapping[str, object], prices: str | None, *, submit: bool
    ) -> dict[str, LLMCall]:
        """Collect batches that have ended; with `submit`, submit the calls that are missing.

        Raises:
            Waiting: some of the missing calls are in a batch that has not ended.
            BudgetSpent: the budget does not cover all missing calls; the calls that it covers are submitted.
            ProviderError: a batch was refused, or a call in one failed as all others would (no credit).
        """
        self._settings, self._prices = dict(settings), prices
        batches = self._store.open_batches(self._name, settings)
        known_ids = frozenset(b.vendor_id for b in batches if b.vendor_id)
        ended: dict[str, LLMCall] = {}
        waiting: list[OpenBatch] = []
        fatal: ProviderError | None = None
        for batch in batches:
            vendor_id = batch.vendor_id or await self._confirm(batch, known_ids)
            if vendor_id is None:
                continue
            outcomes = await self._patiently(self._provider.collect, vendor_id, batch.requests.keys())
            if outcomes is None:
                waiting.append(batch)
                continue
            calls = [self._call(batch, key, outcomes.get(key)) for key in batch.requests]
            self._store.end_batch(batch.label, calls)
            ended |= {call.key: call for call in calls if call.key in missing}
            fatal = fatal or next((o for o in outcomes.values() if isinstance(o, ProviderError)), None)
        if fatal is not None:  # what was answered is stored; nothing more is submitted
            raise fatal
        held = {key for batch in waiting for key in batch.requests}
        left = {key: request for key, request in missing.items() if key not in ended and key not in held}
        spent: BudgetSpent | None = None
        if submit and left:
            new, spent = self._affordable(left)
            waiting += [await self._submit(part) for part in _parts(new, self._provider.MOST_CALLS)]
            held |= new.keys()
        if spent is not None:
            raise spent
        if held & missing.keys():
            n = len(held & missing.keys())
            raise Waiting(f"{n:,} {self._role} calls are in a batch of {self._name}; run again to collect them")
        return ended

    async def _confirm(self, batch: OpenBatch, known_ids: frozenset[str]) -> str | None:
        """The vendor's id of a batch that was submitted without our seeing the response."""
        vendor_id = await self._patiently(self._provider.find, batch, known_ids)
        if vendor_id is None:
            self._store.end_batch(batch.label, [], "it never arrived")
        else:
            self._store.confirm_batch(batch.label, vendor_id)
        return vendor_id

    def _affordable(self, left: Mapping[str, LLMRequest]) -> tuple[dict[str, LLMRequest], BudgetSpent | None]:
        """The first calls that the budget covers, and the error for the others."""
        new: dict[str, LLMRequest] = {}
        for key, request in left.items():
            most_usd = 0.0
            if self._session.max_cost_usd is not None:
                most_usd = require_price(self._name, request.model, self._prices).most_usd(request, batch=True)
            if not self._session.fits(most_usd):
                return new, BudgetSpent(self._role, self._session, most_usd)
            self._session.reserve(most_usd)
            new[key] = request
        return new, None

    async def _submit(self, requests: Mapping[str, LLMRequest]) -> OpenBatch:
        label = uuid.uuid4().hex
        calls = [
            LLMCall(key=key, provider=self._name, settings=self._settings, role=self._role, request=request,
                    status="submitted", reply=None, n_attempts=1, latency_s=0.0, batch=label)
            for key, request in requests.items()
        ]  # fmt: skip
        self._store.begin_batch(label, self._role, calls)
        try:
            vendor_id = await self._provider.submit(label, requests)
        except Retryable as failure:
            if failure.charged:
                raise Waiting(f"a batch may not have reached {self._name} ({failure}); run again to find out") from None
            self._store.end_batch(label, [], str(failure))
            raise ProviderError(f"{self._name} did not take the batch ({failure}); run again later") from None
        except CallFailed as failure:
            self._store.end_batch(label, [], str(failure))
            raise ProviderError(f"{self._name} refused the batch: {failure}") from None
        except ProviderError as failure:
            self._store.end_batch(label, [], str(failure))
            raise
        self._store.confirm_batch(label, vendor_id)
        return OpenBatch(label=label, vendor_id=vendor_id, role=self._role, submitted_at="", requests=requests)

    async def _patiently(self, ask: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs) -> T:
        """Await `ask`, up to five times where it may be tried again."""
        for n in range(_ATTEMPTS):
            try:
                return await ask(*arguments, **named)
            except Retryable as failure:
                if n == _ATTEMPTS - 1:
                    raise Waiting(f"{self._name} does not say how the batch is ({failure}); run again later") from None
                await asyncio.sleep(failure.retry_after_s or 2.0**n / 2)
            except CallFailed as failure:
                raise ProviderError(f"{self._name}: the batch cannot be read: {failure}") from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _call(self, batch: OpenBatch, key: str, outcome: Outcome | None) -> LLMCall:
        request = batch.requests[key]
        reply = capped(outcome) if isinstance(outcome, LLMReply) else None
        failure = None if isinstance(outcome, LLMReply) else outcome
        price = find_price(self._name, request.model, self._prices)
        error = None if reply else str(failure or "the batch ended without an answer to it")
        return LLMCall(
            key=key, provider=self._name, settings=self._settings, role=batch.role, request=request,
            status="ok" if reply else "failed", reply=reply, error=error, n_attempts=1, latency_s=0.0,
            price_usd=price.usd(reply, batch=True) if price and reply else None,
            price_date=price.as_of if price and reply else None,
            final=reply is not None or isinstance(failure, Refused), batch=batch.label,
        )  # fmt: skip


def _parts(requests: Mapping[str, LLMRequest], most: int) -> list[dict[str, LLMRequest]]:
    items = list(requests.items())
    return [dict(items[start : start + most]) for start in range(0, len(items), most)]


__all__ = ["BatchProvider", "BatchStore", "Batches", "Outcome"]
