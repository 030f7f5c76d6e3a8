"""Plugin `pretrained-adapter`: an adapter that is trained already."""

from __future__ import annotations

from pydantic import Field

from harness.config import Config
from harness.contract.hooks import hookimpl
from harness.contract.stages import Registration, Trainer


class PretrainedAdapterConfig(Config):
    """Where the adapter is."""

    path: str = Field(min_length=1)
    """Local PEFT folder, `package://harness/...`, or a hub id. It is copied into the run, as a plain LoRA:
    one whose initialisation changes the base's weights (PiSSA, OLoRA) is converted."""
    revision: str | None = None
    """Hub revision; None is the default branch."""

    def reads(self) -> tuple[str, ...]:
        """The adapter's folder: where its files change, the steps that use it run again."""
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
            seeded=False,
        )
    ]
