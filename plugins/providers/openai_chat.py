"""`openai`: Chat Completions of OpenAI and of servers that speak the same format (vLLM, OpenRouter, Ollama, ...)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import PositiveFloat

from harness import Config, Provider, Registration, hookimpl


class OpenAIConfig(Config):
    """Which server, and how it is asked."""

    model: str = "gpt-5-mini"
    """Model where the study names none; the paper's explainer and categoriser."""
    base_url: str | None = None
    """Address of a compatible server, e.g. `http://127.0.0.1:8000/v1`; None: $OPENAI_BASE_URL, else OpenAI."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key."""
    key_required: bool = True
    """False for a local server that wants no key."""
    structured_output: bool = True
    """Send the request's JSON schema as response_format, where it has one."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """Parameter for the longest reply; older compatible servers know only `max_tokens`."""
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None
    """Effort of reasoning models; None leaves it to the model."""
    timeout_s: PositiveFloat = 600.0
    """Longest silence on a connection; the client's own limit per attempt is usually shorter."""


def _load() -> Callable[[Any], Provider]:
    from .openai_client import OpenAIChat

    return OpenAIChat


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `openai`."""
    return [
        Registration(
            name="openai",
            config=OpenAIConfig,
            load=_load,
            summary="Chat Completions of OpenAI or a compatible server (key in OPENAI_API_KEY)",
        )
    ]
