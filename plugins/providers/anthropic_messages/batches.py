"""Anthropic's message batches: requests go up in one body, results come down as lines, in any order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from harness.errors import HarnessError, Waiting
from harness.llm.batch import Outcome
from harness.llm.errors import CallFailed, Refused, Retryable
from harness.records import LLMRequest, OpenBatch

from ..wire import clean, unsure
from .client import Messages

_CLOCKS_DIFFER_S = 3600


class AnthropicMessages(Messages):
    """The Messages API with its batches (`harness.llm.batch.BatchProvider`). Custom ids are the journal's hashes."""

    MOST_CALLS = 100_000

    async def submit(self, label: str, requests: Mapping[str, LLMRequest]) -> str:
        """Make a batch. It has no room for our label: it is found again by its custom ids."""
        made: Any = [{"custom_id": key, "params": self.parameters(request)} for key, request in requests.items()]
        with unsure(), self.failures(next(iter(requests.values())).model):
            return (await self.client().messages.batches.create(requests=made)).id

    async def find(self, batch: OpenBatch, known: frozenset[str]) -> str | None:
        """The batch with our custom ids among those made since; they can be seen once it has ended."""
        since = datetime.fromisoformat(batch.submitted_at).timestamp() - _CLOCKS_DIFFER_S
        with self.failures(""):
            async for made in self.client().messages.batches.list(limit=100):
                if made.created_at.timestamp() < since:
                    break
                if made.id in known:
                    continue
                if made.processing_status == "ended":
                    async for line in await self.client().messages.batches.results(made.id):
                        if line.custom_id in batch.requests:
                            return made.id
                        break
                elif made.request_counts.processing == len(batch.requests):
                    raise Waiting(f"batch {made.id} of {self.name} may be ours; run again when it has ended")
        return None

    async def collect(self, vendor_id: str) -> Mapping[str, Outcome] | None:
        """Results, once it has ended in whatever way."""
        found: dict[str, Outcome] = {}
        with self.failures(""):
            batch = await self.client().messages.batches.retrieve(vendor_id)
            if batch.processing_status != "ended":
                return None
            async for line in await self.client().messages.batches.results(vendor_id):
                found[line.custom_id] = self._outcome(line.result.model_dump(mode="json"))
        return found

    def _outcome(self, result: dict[str, Any]) -> Outcome:
        kind = result.get("type")
        try:
            if kind == "succeeded":
                body = json.dumps(result.get("message")).encode()
                return self.reply(body, LLMRequest(model="", user=""), "", self.key())
        except HarnessError as bad:
            return bad if isinstance(bad, CallFailed) else Retryable(str(bad))
        if kind == "errored":
            error = (result.get("error") or {}).get("error") or {}
            said = clean(f"{error.get('type')}: {error.get('message')}", self.key())[:300]
            return Refused(said) if error.get("type") == "invalid_request_error" else Retryable(said)
        return Retryable(f"the batch ended with this call {kind}")
