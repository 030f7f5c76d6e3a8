"""OpenAI's batches: a file of requests goes up, a file of answers and one of errors come down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from harness.errors import HarnessError
from harness.llm.batch import Outcome
from harness.llm.errors import CallFailed, Refused, Retryable
from harness.records import LLMRequest, OpenBatch

from ..wire import clean, read_outcome, status_failure, unsure
from .client import ChatCompletions

_ENDED = {"completed", "expired", "cancelled", "failed"}
_LABEL = "harness_batch"
_CLOCKS_DIFFER_S = 3600


class OpenAIChat(ChatCompletions):
    """Chat Completions of OpenAI itself, with its batches (`harness.llm.batch.BatchProvider`). They carry our label."""

    MOST_CALLS = 50_000

    async def submit(self, label: str, requests: Mapping[str, LLMRequest]) -> str:
        """Upload the requests and make a batch of them."""
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

    async def find(self, batch: OpenBatch, known: frozenset[str]) -> str | None:
        """The batch with our label, among those made since."""
        since = datetime.fromisoformat(batch.submitted_at).timestamp() - _CLOCKS_DIFFER_S
        with self.failures(""):
            async for made in self.client().batches.list(limit=100):
                if (made.metadata or {}).get(_LABEL) == batch.label:
                    return made.id
                if made.created_at < since:
                    break
        return None

    async def collect(self, vendor_id: str) -> Mapping[str, Outcome] | None:
        """Answers and errors, once it has ended in whatever way."""
        with self.failures(""):
            batch = await self.client().batches.retrieve(vendor_id)
            if batch.status not in _ENDED:
                return None
            files = [f for f in (batch.output_file_id, batch.error_file_id) if f]
            texts = [(await self.client().files.content(f)).text for f in files]
        found: dict[str, Outcome] = {}
        for text in texts:
            for line in filter(None, text.split("\n")):
                key, outcome = self._outcome(clean(line, self.key()))
                if key is not None:
                    found[key] = outcome
        if not found and batch.errors and batch.errors.data:
            raise Refused(f"the batch was refused: {batch.errors.data[0].message or batch.errors.data[0].code}")
        return found

    def _outcome(self, line: str) -> tuple[str | None, Outcome]:
        data = read_outcome(line)
        key = data.get("custom_id")
        response = data.get("response") or {}
        status = response.get("status_code")
        try:
            if status == 200:
                body = json.dumps(response.get("body")).encode()
                asked = LLMRequest(model="", user="")
                return key, self.reply(body, asked, str(response.get("request_id") or ""), self.key())
            if status is None:
                error = data.get("error") or {}
                return key, Retryable(f"{error.get('code')}: {error.get('message')}"[:300])
            failure: HarnessError = status_failure(
                self.name, int(status), response.get("body"), {},
                key=self.key(), variable=self.config.key_variable, model="",
            )  # fmt: skip
        except CallFailed as bad:
            failure = bad
        return key, failure if isinstance(failure, CallFailed) else Retryable(str(failure))
