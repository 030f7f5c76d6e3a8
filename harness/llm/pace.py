"""Keeping to an account's rate limits: requests per minute and tokens per minute, evenly, without a burst."""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from harness.llm.prices import estimated_tokens
from harness.records import LLMReply, LLMRequest

_FIRST_REPLY_TOKENS = 500
"""Assumed length of a reply before the first one came."""


class Pace:
    """Holds requests back until the limits allow them. Belongs to one event loop."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        """None is no limit."""
        # a bucket of one request, or of one second's tokens: a full minute's bucket would allow twice the rate at first
        self._requests = AsyncLimiter(1, 60 / requests_per_minute) if requests_per_minute else None
        self._per_second = max(1.0, (tokens_per_minute or 0) / 60)
        self._tokens = AsyncLimiter(self._per_second, 1) if tokens_per_minute else None
        self._queue = asyncio.Lock()
        self._owed, self._n_replies, self._reply_tokens = 0, 0, 0

    async def wait(self, request: LLMRequest) -> int:
        """Wait for the request's turn; returns the tokens that were counted for it."""
        if self._requests is None and self._tokens is None:
            return 0
        async with self._queue:  # first come, first served: the limiter alone would let short requests pass
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is None:
                return 0
            mean = self._reply_tokens / self._n_replies if self._n_replies else _FIRST_REPLY_TOKENS
            counted = estimated_tokens(request) + round(min(mean, request.max_tokens))
            left, self._owed = float(max(0, counted + self._owed)), 0
            while left > 0:
                part = min(left, self._per_second)
                await self._tokens.acquire(part)
                left -= part
        return counted

    def answered(self, reply: LLMReply, counted: int) -> None:
        """Correct the estimate: tokens that were not counted are held back from the next request."""
        if reply.output_tokens is not None:
            self._n_replies += 1
            self._reply_tokens += reply.output_tokens
            if self._tokens is not None and reply.input_tokens is not None:
                self._owed += reply.input_tokens + reply.output_tokens - counted
