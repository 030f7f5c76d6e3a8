"""Records of ablations: KL and cross-entropy with something switched off, and how they were measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import NonNegativeInt

from harness.records.base import Estimate, Record, StoredAs
from harness.records.segments import Segment


class AblationScore(Record):
    """The effect of switching something off on the adapter's next-token distribution."""

    IDENTITY = ("scope",)

    item: str
    """Name within the step."""
    scope: Literal["component", "layer", "projection", "block", "group", "adapter", "greedy", "shapley"]
    """What was switched off. `adapter`: all of it, so kl_nats is KL(adapter ‖ base), the scale of the others. `block`:
    a run of layers. `greedy`: a group on top of those before it. `shapley`: nothing, kl_nats is the group's share."""
    layer: int | None = None
    """Layer, for scopes that have one."""
    projection: str | None = None
    """Projection, for scopes that have one; None for a whole layer."""
    rank_index: int | None = None
    """Rank index of the component."""
    group: Annotated[str | None, StoredAs("group_name")] = None  # GROUP is a reserved word of SQL
    """Name of the group, e.g. `attention`."""
    mode: Literal["zero", "mean"] = "zero"
    """What the scalars were set to."""
    kl_nats: Estimate
    """KL(full ‖ ablated), mean over the response's tokens (trace and answer: what training supervises), interval by
    bootstrap-t over documents. A token counts with the distribution that follows it. Where `method` is `fisher`: the
    estimate of Fisher probes."""
    n_tokens: NonNegativeInt
    """Tokens of the response that were measured."""
    n_documents: NonNegativeInt
    """Documents."""
    n_components: NonNegativeInt
    """Components switched off."""
    method: Literal["exact", "fisher"] = "exact"
    """Measured by running the ablated model, or estimated from Fisher probes."""
    chosen_as: Literal["all", "top", "audit"] | None = None
    """Why it was measured: `all` cells were, its estimate was among the `top`, or it was drawn to `audit` estimates."""
    reason: str | None = None
    """Why something is missing."""
    fisher_nats: Estimate | None = None
    """KL over the response estimated by Fisher probes, to second order in the size of the effect; the interval is of
    the documents and of the probes' randomness at once."""
    n_draws: NonNegativeInt | None = None
    """Draws of the probes that an estimate averages: documents times probes."""
    null_floor_nats: float | None = None
    """KL per token of the response when every input of the first ablated layer changes by one unit in the last place. A
    smaller KL is rounding noise."""
    ce_nats: float | None = None
    """Cross-entropy of the text's next token with it switched off, mean over the response's tokens that have one."""
    ce_change_nats: Estimate | None = None
    """By how much that cross-entropy rose; interval by bootstrap-t over documents, as of the KLs below."""
    kl_nats_prompt: Estimate | None = None
    """KL over the tokens of the prompt, which training does not supervise."""
    n_tokens_prompt: NonNegativeInt | None = None
    """Tokens of the prompt."""
    kl_nats_trace: Estimate | None = None
    """KL over the tokens of the reasoning trace."""
    n_tokens_trace: NonNegativeInt | None = None
    """Tokens of the reasoning trace."""
    kl_nats_answer: Estimate | None = None
    """KL over the tokens of the answer."""
    n_tokens_answer: NonNegativeInt | None = None
    """Tokens of the answer."""
    kl_nats_all: Estimate | None = None
    """KL over all measured tokens."""
    n_tokens_all: NonNegativeInt | None = None
    """All measured tokens."""
    document_kl_sums: dict[Segment, tuple[float, ...]] | None = None
    """Segment -> the KL of each document in nats, summed over its tokens, so that other intervals can be computed."""
    document_n_tokens: dict[Segment, tuple[int, ...]] | None = None
    """Segment -> tokens of each document."""
    place: NonNegativeInt | None = None
    """Place in a greedy order, from 1."""
    engine: str | None = None
    """How the model was run: reuse of the layers below the ablation, numeric mode, dtype."""
