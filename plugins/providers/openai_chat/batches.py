"""OpenAI's batches: a file of requests is uploaded; a file of answers and one of errors are downloaded."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from harness.llm.batch import Outcome
from harness.llm.errors import Refused, Retryable
from harness.records import LLMRequest, OpenBatch

from ..failures import MAX_MESSAGE, error_status, reported_error, status_error
from ..wire import clean, lines, unsure
from .client import ChatCompletions

_ENDED = {"completed", "expired", "cancelled", "failed"}
_LABEL = "harness_batch"
_CLOCKS_DIFFER_S = 3600


class OpenAIChat(ChatCompletions):
    """Chat Completions of OpenAI itself, with batches (`harness.llm.batch.BatchProvider`) that hold our label."""

    MOST_CALLS = 50_000

    async def submit(self, label: str, requests: Mapping[str, LLMRequest]) -> str:
        """Upload the requests and create a batch of them."""
        lines = (
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": self.parameters(request)}
            for key, request in requests.items()
        )
        file = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        model = next(iter(requests.values())).model
        with self.failures(model):
            uploaded = await self.client().files.create(file=(f"{label}.jsonl", file), purpose="batch")
        with unsure(), self.failures(model):
            batch = await self.client().batches.create(
                input_file_id=uploaded.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_LABEL: label},
            )
        return batch.id

    async def find(self, batch: OpenBatch, known_ids: frozenset[str]) -> str | None:
        """The batch with our label among those created since."""
        since = datetime.fromisoformat(batch.submitted_at).timestamp() - _CLOCKS_DIFFER_S
        with self.failures(""):
            async for made in self.client().batches.list(limit=100):
                if (made.metadata or {}).get(_LABEL) == batch.label:
                    return made.id
                if made.created_at < since:
                    break
        return None

    async def collect(self, vendor_id: str, keys: Collection[str]) -> Mapping[str, Outcome] | None:
        """Answers and errors, once the batch has ended, whether completed or not."""
        outcomes: dict[str, Outcome] = {}
        with self.failures(""):
            batch = await self.client().batches.retrieve(vendor_id)
            if batch.status not in _ENDED:
                return None
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                async with self.client().files.with_streaming_response.content(file) as response:
                    async for line in lines(response.iter_bytes(), self.config.max_response_bytes):
                        if isinstance(key := line.get("custom_id"), str) and key in keys:
                            outcomes[key] = self._outcome(line)
            if not outcomes and batch.errors and batch.errors.data:
                reason = batch.errors.data[0].message or batch.errors.data[0].code
                raise Refused(clean(f"the batch was refused: {reason}", self.key())[:MAX_MESSAGE])
        return outcomes

    def _outcome(self, line: Mapping[str, Any]) -> Outcome:
        response = line.get("response")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self.outcome(body, str(response.get("request_id") or ""))
        if (number := error_status(status)) is not None:
            return self.failure(status_error(number, body))
        error = reported_error(line)
        return Retryable("the batch has no answer to this call") if error is None else self.failure(error)
