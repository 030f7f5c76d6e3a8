"""Chat Completions through the official SDK."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import openai
from pydantic import BaseModel

from harness.errors import UsageError
from harness.llm.errors import Retryable
from harness.records import LLMReply, LLMRequest

from ..sdk import SdkProvider
from ..wire import Count, checked, joined
from . import CompatibleConfig, OpenAIConfig


class _Message(BaseModel):
    content: Any = None
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
    """The fields of a chat completion that are read."""

    choices: tuple[_Choice, ...] | None = None
    model: str | None = None
    usage: _Usage | None = None


class ChatCompletions(SdkProvider[OpenAIConfig]):
    """Chat Completions."""

    name = "openai"
    SDK: ClassVar[ModuleType] = openai
    CLIENT = "AsyncOpenAI"
    PATH = "/chat/completions"
    REQUEST_ID = "x-request-id"

    def read(self, body: Any, request: LLMRequest) -> LLMReply:
        """A completion."""
        completion = checked(body, _Completion)
        if not completion.choices:
            raise Retryable("the response has no choices")
        choice, usage = completion.choices[0], completion.usage or _Usage()
        text, refusal = joined(choice.message.content)
        refusal = refusal or choice.message.refusal or ""
        return LLMReply(
            text=text or refusal,
            finish_reason="refusal" if refusal else choice.finish_reason,
            model=completion.model or request.model,
            input_tokens=usage.prompt_tokens,
            cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None,
            output_tokens=usage.completion_tokens,
        )

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
    """Chat Completions of another server, without batches: few servers have them."""

    name = "openai-compatible"

    def __init__(self, config: CompatibleConfig) -> None:
        if config.address() is None:
            raise UsageError(
                f"{self.name}: no address; use --set {self.name}.base_url=http://HOST:PORT/v1 or set the environment "
                f"variable {config.BASE_URL_VARIABLE}"
            )
        super().__init__(config)
