"""The Messages API through the official SDK: one request, one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anthropic import APIConnectionError, APIError, APIStatusError, AsyncAnthropic, Omit
from httpx2 import Response
from pydantic import BaseModel

from harness.calls import LLMReply, LLMRequest
from harness.errors import ProviderError
from harness.llm.errors import Retryable

from .anthropic_messages import AnthropicConfig
from .connections import NO_KEY, TELEMETRY, Connections
from .wire import Count, api_key, clean, lost_connection, read_body, status_failure

_OPTIONS: Any = {"headers": dict.fromkeys(TELEMETRY, Omit()), "idempotency_key": NO_KEY, "max_retries": 0}
_UNSUPPORTED = {"maxLength", "minLength", "minimum", "maximum", "minItems", "maxItems"}


class _Block(BaseModel):
    type: str
    text: str = ""


class _Usage(BaseModel):
    input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    output_tokens: Count | None = None


class _Message(BaseModel):
    """The part of a message that is kept."""

    content: tuple[_Block, ...]
    model: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class Messages:
    """The Messages API. The SDK's client is made inside the running loop and closed with it."""

    name = "anthropic"

    def __init__(self, config: AnthropicConfig) -> None:
        self.config = config
        self._clients: dict[asyncio.AbstractEventLoop, AsyncAnthropic] = {}

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt.

        Raises:
            CallFailed: this call failed; Retryable or Refused.
            ProviderError: no call can succeed: no key, wrong key, unknown model, no credit, or a temperature was set.
        """
        key, body = self.key(), self.parameters(request)
        with self.failures(request.model):
            raw = await self.client().post("/v1/messages", body=body, cast_to=Response, options=_OPTIONS)
        return self.reply(raw.content, request, raw.headers.get("request-id", ""), key)

    def key(self) -> str:
        """The API key.

        Raises:
            MissingKey: there is none and one is required.
        """
        return api_key(self.name, self.config.key_variable, required=self.config.key_required)

    @contextmanager
    def failures(self, model: str) -> Iterator[None]:
        """The SDK's exceptions as ours, without what they carry: the request with its Authorization header."""
        try:
            yield
        except APIStatusError as error:
            raise status_failure(
                self.name, error.status_code, error.body, error.response.headers,
                key=self.key(), variable=self.config.key_variable, model=model,
            ) from None  # fmt: skip
        except APIConnectionError as error:
            raise lost_connection(error) from None
        except APIError as error:
            raise Retryable(f"the response is not what the API promises ({type(error).__name__})") from None

    def reply(self, body: bytes, request: LLMRequest, request_id: str, key: str) -> LLMReply:
        """A message's body as a reply."""
        return _reply(read_body(body, _Message, key), request, clean(request_id, key))

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def client(self) -> AsyncAnthropic:
        """The SDK's client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = AsyncAnthropic(
                api_key=self.key(), base_url=self.config.address(), max_retries=0, timeout=self.config.timeout_s,
                http_client=Connections(self.config.timeout_s),
            )  # fmt: skip
        return self._clients[loop]

    def parameters(self, request: LLMRequest) -> dict[str, Any]:
        """The body of a request.

        Raises:
            ProviderError: no model is named, or a temperature is.
        """
        if not request.model:
            raise ProviderError(f"{self.name}: no model is named; use --provider {self.name}:MODEL")
        if request.temperature is not None:
            raise ProviderError(f"{self.name} has no temperature: leave the interpreter's temperature unset")
        parameters: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": "user", "content": request.user}],
            "max_tokens": request.max_tokens,
        }
        if request.system:
            parameters["system"] = request.system
        if self.config.structured_output and request.json_schema is not None:
            schema = request.json_schema if self.config.keep_limits else _supported(request.json_schema)
            parameters["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return parameters


def _supported(schema: Any) -> Any:
    """The schema without the limits that the API refuses."""
    if isinstance(schema, dict):
        return {k: _supported(v) for k, v in schema.items() if k not in _UNSUPPORTED}
    return [_supported(v) for v in schema] if isinstance(schema, list) else schema


def _reply(message: _Message, request: LLMRequest, request_id: str) -> LLMReply:
    usage = message.usage or _Usage()
    cached = usage.cache_read_input_tokens
    # Anthropic's input_tokens leaves out what the cache read or wrote; ours counts all of the prompt
    whole = None
    if usage.input_tokens is not None:
        whole = usage.input_tokens + (cached or 0) + (usage.cache_creation_input_tokens or 0)
    return LLMReply(
        text="".join(block.text for block in message.content if block.type == "text"),
        finish_reason=message.stop_reason,
        model=message.model or request.model,
        request_id=request_id or None,
        input_tokens=whole,
        cached_tokens=cached,
        output_tokens=usage.output_tokens,
    )
