"""`openai` and `openai-compatible`: Chat Completions of OpenAI, vLLM, Ollama, llama.cpp, OpenRouter and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from harness import Provider, Registration, hookimpl

from ..server import ServerConfig


class OpenAIConfig(ServerConfig):
    """How OpenAI is asked."""

    BASE_URL_VARIABLE: ClassVar[str] = "OPENAI_BASE_URL"

    model: str = "gpt-5-mini"
    """Model where the study names none; the paper's explainer and categoriser."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """Parameter for the longest reply; older compatible servers know only `max_tokens`."""
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None
    """Effort of reasoning models; None leaves it to the model."""


class CompatibleConfig(OpenAIConfig):
    """Another server that speaks OpenAI's format.

    | server | base_url | key_variable |
    |---|---|---|
    | vLLM | `http://127.0.0.1:8000/v1` | key_required=false |
    | Ollama | `http://127.0.0.1:11434/v1` | key_required=false |
    | llama.cpp | `http://127.0.0.1:8080/v1` | key_required=false |
    | OpenRouter | `https://openrouter.ai/api/v1` | OPENROUTER_API_KEY |
    """

    BASE_URL_VARIABLE: ClassVar[str] = "OPENAI_COMPATIBLE_BASE_URL"

    model: str = ""
    """Model where the study names none. No default: name one, `--provider openai-compatible:MODEL`."""
    key_variable: str = "OPENAI_COMPATIBLE_API_KEY"
    """Environment variable that holds the API key. Not OPENAI_API_KEY, so that no other server gets that key."""
    key_required: bool = False
    """True where the server refuses requests without a key."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    """Parameter for the longest reply; most compatible servers know the older name only."""


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `openai` and `openai-compatible`."""
    return [
        Registration(
            name="openai",
            config=OpenAIConfig,
            load="harness_plugins.providers.openai_chat.batches:OpenAIChat",
            summary="Chat Completions of OpenAI (key in OPENAI_API_KEY)",
        ),
        Registration(
            name="openai-compatible",
            config=CompatibleConfig,
            load="harness_plugins.providers.openai_chat.client:OpenAICompatible",
            summary="a server that speaks OpenAI's format: vLLM, Ollama, llama.cpp, OpenRouter (set base_url)",
        ),
    ]
