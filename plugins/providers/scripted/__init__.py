"""`scripted`: replies by rule, without a network. For tests, demos and plugin authors; its answers mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from harness import Provider, ProviderConfig, Registration, hookimpl


class ScriptedConfig(ProviderConfig):
    """What it answers."""

    model: str = "scripted"
    """Model where the study names none; any name will do."""
    rules: dict[str, str] = Field(default_factory=dict)
    """Text in the prompt -> reply; the first rule whose text is in the prompt answers."""
    replies: tuple[str, ...] = ()
    """If no rule matches: one of these, chosen by the prompt's hash."""


@hookimpl
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer `scripted`."""
    return [
        Registration(
            name="scripted",
            config=ScriptedConfig,
            load="harness_plugins.providers.scripted.provider:Scripted",
            summary="deterministic replies by rule, without a network (tests and demos)",
        )
    ]
