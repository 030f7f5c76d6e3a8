"""Chat Completions through the official SDK: one request, one attempt.

Its door for raw requests (`post`) is used, not `create`, which walks the types of parameters and response: that takes
as much time as sending them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from httpx2 import Response
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, Omit
from pydantic import BaseModel

from harness.calls import LLMReply, LLMRequest
from harness.errors import ProviderError, UsageError
from harness.llm.errors import Retryable

from .connections import NO_KEY, TELEMETRY, Connections
from .openai_chat import CompatibleConfig, OpenAIConfig
from .wire import Count, api_key, clean, lost_connection, read_body, status_failure

_OPTIONS: Any = {"headers": dict.fromkeys(TELEMETRY, Omit()), "idempotency_key": NO_KEY, "max_retries": 0}


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Cached(BaseModel):
    cached_tokens: Count | None = None


class _Usage(BaseModel):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Cached | None = None


class _Completion(BaseModel):
    """The part of a chat completion that is kept."""

    choices: tuple[_Choice, ...]
    model: str | None = None
    usage: _Usage | None = None


class ChatCompletions:
    """Chat Completions. The SDK's client is made inside the running loop and closed with it."""

    name = "openai"

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self._clients: dict[asyncio.AbstractEventLoop, AsyncOpenAI] = {}

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt.

        Raises:
            CallFailed: this call failed; Retryable or Refused.
            ProviderError: no call can succeed: no key, wrong key, unknown model, no credit.
        """
        key = self.key()
        if not request.model:
            raise ProviderError(f"{self.name}: no model is named; use --provider {self.name}:MODEL")
        with self.failures(request.model):
            raw = await self.client().post(
                "/chat/completions", body=self.parameters(request), cast_to=Response, options=_OPTIONS
            )
        return self.reply(raw.content, request, raw.headers.get("x-request-id", ""), key)

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
        """A response's body as a reply."""
        return _reply(read_body(body, _Completion, key), request, clean(request_id, key))

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def client(self) -> AsyncOpenAI:
        """The SDK's client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = AsyncOpenAI(
                api_key=self.key(), base_url=self.config.address(), max_retries=0, timeout=self.config.timeout_s,
                http_client=Connections(self.config.timeout_s),
            )  # fmt: skip
        return self._clients[loop]

    def parameters(self, request: LLMRequest) -> dict[str, Any]:
        """The body of a request."""
        config = self.config
        messages = [{"role": "system", "content": request.system}] if request.system else []
        parameters: dict[str, Any] = {
            "model": request.model,
            "messages": [*messages, {"role": "user", "content": request.user}],
            config.max_tokens_field: request.max_tokens,
        }
        if request.temperature is not None:
            parameters["temperature"] = request.temperature
        if config.reasoning_effort is not None:
            parameters["reasoning_effort"] = config.reasoning_effort
        if config.structured_output and request.json_schema is not None:
            schema = {"name": "answer", "schema": request.json_schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        return parameters


class OpenAICompatible(ChatCompletions):
    """Of another server; few of them have batches."""

    name = "openai-compatible"

    def __init__(self, config: CompatibleConfig) -> None:
        if config.address() is None:
            raise UsageError(
                f"{self.name}: no address; use --set {self.name}.base_url=http://HOST:PORT/v1 or set the environment "
                f"variable {config.BASE_URL_VARIABLE}"
            )
        super().__init__(config)


def _reply(completion: _Completion, request: LLMRequest, request_id: str) -> LLMReply:
    if not completion.choices:
        raise Retryable("the response has no choices")
    choice, usage = completion.choices[0], completion.usage or _Usage()
    refusal = choice.message.refusal if not choice.message.content else None
    return LLMReply(
        text=choice.message.content or refusal or "",
        finish_reason="refusal" if refusal else choice.finish_reason,
        model=completion.model or request.model,
        request_id=request_id or None,
        input_tokens=usage.prompt_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None,
        output_tokens=usage.completion_tokens,
    )
