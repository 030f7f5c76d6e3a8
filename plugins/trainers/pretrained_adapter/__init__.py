"""Plugin `pretrained-adapter`: an adapter that someone has trained already."""

from __future__ import annotations

from pydantic import Field

from harness.config import Config
from harness.contract.hooks import hookimpl
from harness.contract.stages import Registration, Trainer


class PretrainedAdapterConfig(Config):
    """Where the adapter is."""

    path: str = Field(min_length=1)
    """Local PEFT folder, `package://harness/...`, or a hub id. Copied, so that the study holds what it measured."""
    revision: str | None = None
    """Hub revision; None is the default branch."""

    def reads(self) -> tuple[str, ...]:
        """The adapter: another one in the same folder is another study's."""
        return (self.path,)


@hookimpl
def harness_trainers() -> list[Registration[Trainer]]:
    """Offer `pretrained-adapter`."""
    return [
        Registration(
            name="pretrained-adapter",
            config=PretrainedAdapterConfig,
            load="harness_plugins.trainers.pretrained_adapter.trainer:ExistingAdapter",
            summary="take an existing PEFT adapter from a folder or the hub; trains nothing",
        )
    ]
