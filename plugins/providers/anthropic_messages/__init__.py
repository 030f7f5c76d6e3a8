"""`anthropic`: the Messages API of Anthropic and of servers that speak the same format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from harness import Provider, Registration, hookimpl

from ..server import ServerConfig


class AnthropicConfig(ServerConfig):
    """How Anthropic, or a server that speaks its format, is asked."""

    BASE_URL_VARIABLE: ClassVar[str] = "ANTHROPIC_BASE_URL"

    model: str = ""
    """Model where the study names none. No default: name one, `--provider anthropic:MODEL`."""
    key_variable: str = "ANTHROPIC_API_KEY"
    """Environment variable that holds the API key."""
    structured_output: bool = False
    """Send the request's JSON schema as output_config, where it has one; older models refuse the parameter."""
    keep_limits: bool = False
    """Send maxLength and its like, which Anthropic's own API refuses; other servers need them to end a string."""


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `anthropic`."""
    return [
        Registration(
            name="anthropic",
            config=AnthropicConfig,
            load="harness_plugins.providers.anthropic_messages.batches:AnthropicMessages",
            summary="Messages API of Anthropic (key in ANTHROPIC_API_KEY)",
        )
    ]
