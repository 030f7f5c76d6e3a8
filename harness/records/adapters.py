"""Records of several adapters on one base: how alike their weights are, and which features they share."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from harness.records.base import Record


class ModuleOverlap(Record):
    """A module that two adapters share: how alike what they read, what they write and their weights are."""

    item: str
    """Both adapters and the module."""
    first: str
    """An adapter: `adapter`, or a further one's name."""
    second: str
    """Another one."""
    module: str
    """Path of the adapted module."""
    layer: int | None
    """Decoder layer; None outside them."""
    projection: str
    """Adapted projection."""
    weight_cosine: float | None
    """Cosine of scaling * B A of the two as long vectors; None with a reason."""
    weight_null: NonNegativeFloat
    """Its root mean square where one of the two is turned at random: 1 / sqrt(d_in d_out)."""
    read_overlap: NonNegativeFloat | None
    """Mean squared cosine of the principal angles between the spaces that they read; of rank 1, the squared cosine of
    their a. None with a reason."""
    read_null: NonNegativeFloat
    """Its mean for random spaces: the larger rank over d_in."""
    write_overlap: NonNegativeFloat | None
    """The same of the spaces that they write (b)."""
    write_null: NonNegativeFloat
    """Its mean for random spaces: the larger rank over d_out."""
    norm_ratio: float | None
    """Norm of the second's scaling * B A over the first's."""
    reason: str | None = None
    """Why something is missing."""


class SharedFeature(Record):
    """A component of one adapter, and the component of another whose scalar correlates best with its own."""

    INDEXES = (("first", "second"),)

    item: str
    """Both adapters and the component."""
    first: str
    """The adapter of the component."""
    second: str
    """The adapter in which a partner is looked for."""
    component: str
    """The component."""
    layer: int | None
    """Its layer."""
    projection: str | None
    """Its projection."""
    partner: str | None
    """The second's component with the largest |correlation|; None with a reason."""
    correlation: float | None
    """Pearson's, of the two scalars over the same tokens; of the sign only whether two are alike means something. None
    with a reason."""
    shuffled: NonNegativeFloat
    """Mean |correlation| with the best partner where the second's tokens are shuffled within each document."""
    p_value: float | None
    """Share of shuffles, this order counted, in which the largest |correlation| of all pairs is as large (max-T, so it
    holds for all components of the pair of adapters together)."""
    random: NonNegativeFloat | None
    """|correlation| with the best of `n_random` random directions at the first adapter's inputs; None where the study
    reads none."""
    n_candidates: PositiveInt
    """Components of the second adapter."""
    n_random: NonNegativeInt
    """Random directions."""
    n_shuffles: PositiveInt
    """Shuffles."""
    n_tokens: PositiveInt
    """Tokens."""
    n_documents: PositiveInt
    """Documents."""
    reason: str | None = None
    """Why something is missing."""
