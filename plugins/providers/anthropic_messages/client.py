"""The Messages API through the official SDK."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import anthropic
from pydantic import BaseModel

from harness.errors import ProviderError
from harness.records import LLMReply, LLMRequest

from ..sdk import SdkProvider
from ..wire import Count, checked, joined
from . import AnthropicConfig

_UNSUPPORTED = {"maxLength", "minLength", "minimum", "maximum", "minItems", "maxItems"}


class _Usage(BaseModel):
    input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    output_tokens: Count | None = None


class _Message(BaseModel):
    """The fields of a message that are read."""

    content: list[Any] | str
    model: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class Messages(SdkProvider[AnthropicConfig]):
    """The Messages API."""

    name = "anthropic"
    SDK: ClassVar[ModuleType] = anthropic
    CLIENT = "AsyncAnthropic"
    PATH = "/v1/messages"
    REQUEST_ID = "request-id"

    def read(self, body: Any, request: LLMRequest) -> LLMReply:
        """A message."""
        message = checked(body, _Message)
        usage = message.usage or _Usage()
        cached = usage.cache_read_input_tokens
        # Anthropic's input_tokens leaves out what the cache read or wrote; ours counts all of the prompt
        n_prompt = None
        if usage.input_tokens is not None:
            n_prompt = usage.input_tokens + (cached or 0) + (usage.cache_creation_input_tokens or 0)
        text, refusal = joined(message.content)
        return LLMReply(
            text=text or refusal,
            finish_reason="refusal" if refusal else message.stop_reason,
            model=message.model or request.model,
            input_tokens=n_prompt,
            cached_tokens=cached,
            output_tokens=usage.output_tokens,
        )

    def parameters(self, request: LLMRequest) -> dict[str, Any]:
        """The body of a request.

        Raises:
            ProviderError: a temperature is set.
        """
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
