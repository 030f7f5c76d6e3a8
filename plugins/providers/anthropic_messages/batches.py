"""Anthropic's message batches: requests are sent in one body; results are lines, in any order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from typing import Any

from harness.errors import Waiting
from harness.llm.batch import Outcome
from harness.llm.errors import Retryable
from harness.records import LLMRequest, OpenBatch

from ..failures import MAX_MESSAGE, reported_error
from ..wire import clean, lines, unsure
from .client import Messages

_CLOCKS_DIFFER_S = 3600


class AnthropicMessages(Messages):
    """The Messages API with its batches (`harness.llm.batch.BatchProvider`). Custom ids are the journal's hashes."""

    MOST_CALLS = 100_000

    async def submit(self, label: str, requests: Mapping[str, LLMRequest]) -> str:
        """Create a batch. It cannot hold our label, so `find` recognises it by its custom ids."""
        made: Any = [{"custom_id": key, "params": self.parameters(request)} for key, request in requests.items()]
        with unsure(), self.failures(next(iter(requests.values())).model):
            return (await self.client().messages.batches.create(requests=made)).id

    async def find(self, batch: OpenBatch, known_ids: frozenset[str]) -> str | None:
        """The batch with our custom ids among those created since. The ids can be read once a batch has ended."""
        since = datetime.fromisoformat(batch.submitted_at).timestamp() - _CLOCKS_DIFFER_S
        with self.failures(""):
            async for made in self.client().messages.batches.list(limit=100):
                if made.created_at.timestamp() < since:
                    break
                if made.id in known_ids:
                    continue
                if made.processing_status == "ended":
                    async for line in self._results(made.id):
                        if line.get("custom_id") in batch.requests:
                            return made.id
                        break
                elif made.request_counts.processing == len(batch.requests):
                    raise Waiting(f"batch {made.id} of {self.name} may be ours; run again when it has ended")
        return None

    async def collect(self, vendor_id: str, keys: Collection[str]) -> Mapping[str, Outcome] | None:
        """The results, once the batch has ended, whether completed or not."""
        outcomes: dict[str, Outcome] = {}
        with self.failures(""):
            batch = await self.client().messages.batches.retrieve(vendor_id)
            if batch.processing_status != "ended":
                return None
            async for line in self._results(vendor_id):
                if isinstance(key := line.get("custom_id"), str) and key in keys:
                    outcomes[key] = self._outcome(line.get("result"))
        return outcomes

    async def _results(self, vendor_id: str) -> AsyncIterator[dict[str, Any]]:
        results = self.client().messages.batches.with_streaming_response.results(vendor_id)
        async with results as response:
            async for line in lines(response.iter_bytes(), self.config.max_response_bytes):
                yield line

    def _outcome(self, result: Any) -> Outcome:
        result = result if isinstance(result, dict) else {}
        kind = result.get("type")
        if kind == "succeeded":
            return self.outcome(result.get("message"))
        error = reported_error(result)
        if error is not None and kind == "errored":
            return self.failure(error)
        return Retryable(clean(f"the batch ended with this call {kind}", self.key())[:MAX_MESSAGE])
