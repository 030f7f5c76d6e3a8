"""The record of steering: how far a push on a feature changes what the model does, beside its controls."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from harness.records.base import Estimate, Record, Source


class SteeringEffect(Record):
    """One push on one feature, or one of its controls, and the change of one quantity against the adapter as it is."""

    INDEXES = (("feature",),)

    item: str
    """`feature/push/control/where/quantity`."""
    source: Source
    """The dictionary of a latent; `adapter` for components and groups of components."""
    feature: str
    """The latent, component or group."""
    kind: Literal["latent", "component", "group"]
    """What the feature is."""
    chosen_by: str
    """The rule that chose it, in words."""
    push: Literal["gain", "dose"]
    """`gain`: the feature's own contribution to the adapter's scalars is multiplied, on every token where it is active.
    `dose`: a constant is added along the feature, on every token of the response."""
    size: float
    """The gain (1 changes nothing, 0 switches it off), or the dose in standard deviations of the feature."""
    std: NonNegativeFloat
    """Standard deviation of the feature over the tokens that count, zeros included; 0 for groups."""
    times_normal: float | None
    """The push in units of the feature's mean size where it is active: the paper's "normal activation magnitude". A
    gain is that by itself. None where the feature is never active."""
    control: Literal["itself", "flipped", "random", "shuffled", "unrelated"]
    """`itself`: the feature. `flipped`: the push with the other sign. `random`: the same push written along a random
    direction of the same norm at the same matrices. `shuffled`: what a gain adds, moved to other tokens of the
    response. `unrelated`: the same size on another feature."""
    control_feature: str | None = None
    """The other feature."""
    where: Literal["text", "generated"]
    """In the study's own text (teacher-forced), or in answers that are generated."""
    quantity: str
    """`kl`: KL(adapter ‖ steered) over the response. `ce question`, `ce trace`, `ce answer`: cross-entropy of the next
    token. `p EVENT`: probability that the next token of the response begins the event. Of generated answers `n EVENT`,
    `ends trace`, `has answer`, `tokens`, `loops` and `score`."""
    unit: str
    """Of the value: nats, share, count or tokens."""
    at_rest: float
    """The quantity of the adapter as it is; 0 for the KL."""
    change: Estimate
    """Steered minus at rest, mean over tokens (or answers), with a bootstrap-t interval over documents (items)."""
    excess: Estimate | None = None
    """Of a control: by how much the feature itself changes the quantity more, paired by document. None for `itself`."""
    p_value: float | None = None
    """Two-sided paired t-test of that excess being 0; None where there are fewer than two documents."""
    n_documents: NonNegativeInt
    """Documents, or items of the benchmark."""
    n_units: NonNegativeInt
    """Tokens of the text, or generated answers."""
