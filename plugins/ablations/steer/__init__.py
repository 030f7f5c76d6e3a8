"""Plugin `steer`: features pushed through the tap, in text and while answers are written, beside controls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.config import Config
from harness.contract.hooks import hookimpl
from harness.contract.stages import Ablation, Registration

Control = Literal["flipped", "random", "shuffled", "unrelated"]


class SteerConfig(Config):
    """Which features are pushed, how far, and what is looked at."""

    features: tuple[str, ...] = ()
    """Latents (`batch-topk/latent12`), components (`L3.down_proj`) and groups (`group:attention`, `group:mlp`,
    `group:adapter`). Empty: chosen by `strongest` and `readers`."""
    strongest: NonNegativeInt = 3
    """The latents whose switching off changes most (largest KL of `judge`). Where no latent was switched off: the
    components that write most, by standard deviation of the scalar times norm of what it writes."""
    readers: tuple[str, ...] = ("wait",)
    """Kinds of tokens of the report `enrichment`. The latent that reads each best is pushed, too: largest product of
    the share of its activation that falls on them and the share of them that it is active on."""
    gains: tuple[NonNegativeFloat, ...] = (0, 2, 5, 10, 50)
    """Factors of the feature's own contribution. Of latents in text only: a dictionary over all layers knows a token's
    codes after the last layer."""
    doses: tuple[PositiveFloat, ...] = (2, 10, 50, 200)
    """What is added on every token of the response, in standard deviations of the feature. Groups have none."""
    controls: tuple[Control, ...] = ("flipped", "random", "shuffled", "unrelated")
    """What every push is held against. A constant dose has no `shuffled`, a group no `unrelated`."""
    events: dict[str, str] = Field(default_factory=lambda: {"wait": r"[Ww]ait\b"})
    """Name -> regular expression. In text, the probability of the next token beginning one; in answers, how many."""
    n_documents: PositiveInt = 8
    """Traces, drawn with the step's seed."""
    max_tokens: PositiveInt = 512
    """Tokens of each document that are read."""
    batch_tokens: PositiveInt = 4096
    """Tokens of a forward pass, all pushes that share it together."""
    benchmark: str | None = None
    """Whose questions are answered; None is the first of the study's benchmarks."""
    items: NonNegativeInt = 8
    """Questions answered per push; 0 generates nothing."""
    new_tokens: PositiveInt | None = None
    """Most tokens of an answer; None leaves it to the benchmark."""


@hookimpl
def harness_ablations() -> list[Registration[Ablation]]:
    """Offer `steer`."""
    return [
        Registration(
            name="steer",
            config=SteerConfig,
            load="harness_plugins.ablations.steer.ablation:Steer",
            summary="dose-response of pushing latents, components and groups, in text and in generated answers",
            reads=("learn", "judge", "enrich"),
        )
    ]
