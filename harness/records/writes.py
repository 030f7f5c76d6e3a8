"""Records of what features write: the tokens that they promote, and what reads them."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt

from harness.records.base import Record, Source


class WriteDirection(Record):
    """What a feature writes when its activation is 1: promoted tokens, its effect on real text, who reads it."""

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

    item: str
    """Name within the step: source and feature."""
    source: Source
    """The activation set: the adapter's components, or a dictionary."""
    feature: str
    """The feature, one polarity, as in `Feature`."""
    layer: int | None
    """Layer of a component; None for a latent."""
    projection: str | None
    """Projection of a component; None for a latent."""
    write_norm: NonNegativeFloat
    """Norm of what an activation of 1 adds to the outputs of its modules, all together."""
    share_of_module: float | None = None
    """Share of the module's squared norm |scaling b a|^2 that the component has among its ranks; None for a latent."""
    lens_share: float | None = None
    """Share of write_norm squared that the direct logit lens sees: what is added to the residual stream."""
    through: str | None = None
    """The matrix that b was taken through to the residual stream, where it is not written there directly."""
    promoted: tuple[str, ...] = ()
    """Tokens whose logits it raises most through final norm and output matrix alone."""
    promoted_logits: tuple[float, ...] = ()
    """By how much, less the mean over the vocabulary, for a residual stream of RMS 1."""
    suppressed: tuple[str, ...] = ()
    """Tokens whose logits it lowers most."""
    suppressed_logits: tuple[float, ...] = ()
    """By how much."""
    p_promoted: float | None = None
    """Share of random directions of the same norm whose ten highest logits are as high on average; one-sided."""
    p_suppressed: float | None = None
    """Likewise of the ten lowest."""
    reason: str | None = None
    """Why it has no direct logit lens."""
    effect_tokens: tuple[str, ...] = ()
    """Measured tokens by mean effect, the most raised first."""
    effects_nats: tuple[float, ...] = ()
    """Of each: derivative of its log-probability by the activation, added on every token, mean over the response's
    tokens of real text."""
    effects_half_width_nats: tuple[float, ...] = ()
    """Of each: half of its 95 % interval over documents (ratio of sums, Student's t); empty for a single document."""
    effect_p: float | None = None
    """Share of random directions of the same norms in the same modules whose largest effect on one of these tokens is
    as large; two-sided, and so corrected for the number of tokens."""
    null_tokens: tuple[str, ...] = ()
    """The same tokens by the effect of one of these random directions, the most raised first; a different one for each
    component or latent, until all are used."""
    n_tokens: NonNegativeInt | None = None
    """Tokens of the response that effects are averaged over."""
    n_documents: NonNegativeInt | None = None
    """Documents."""
    n_null: NonNegativeInt | None = None
    """Random directions of each null."""
    read_by: tuple[str, ...] = ()
    """Components of later blocks whose a it is most aligned with, the most aligned first; of what it adds to the
    stream, a multiplied with the gain of the norm before it."""
    read_cosines: tuple[float, ...] = ()
    """The cosines."""
    read_p: float | None = None
    """p-value of the largest |cosine| for a random direction, times the number of later readers (Bonferroni)."""
