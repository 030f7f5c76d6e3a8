"""`anthropic`: the Messages API of Anthropic and of servers that speak the same format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import PositiveFloat

from harness import Config, Provider, Registration, hookimpl


class AnthropicConfig(Config):
    """Which server, and how it is asked."""

    model: str = ""
    """Model where the study names none. No default: name one, `--provider anthropic:MODEL`."""
    base_url: str | None = None
    """Address of a compatible server; None: $ANTHROPIC_BASE_URL, else Anthropic."""
    key_variable: str = "ANTHROPIC_API_KEY"
    """Environment variable that holds the API key."""
    key_required: bool = True
    """False for a local server that wants no key."""
    structured_output: bool = False
    """Send the request's JSON schema as output_config, where it has one; older models refuse the parameter."""
    timeout_s: PositiveFloat = 600.0
    """Longest silence on a connection; the client's own limit per attempt is usually shorter."""


def _load() -> Callable[[Any], Provider]:
    from .anthropic_client import AnthropicMessages

    return AnthropicMessages


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `anthropic`."""
    return [
        Registration(
            name="anthropic",
            config=AnthropicConfig,
            load=_load,
            summary="Messages API of Anthropic (key in ANTHROPIC_API_KEY)",
        )
    ]
