"""Records of `differences`: where the next-token distributions and the residual streams of two models part."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from harness.records.base import Estimate, Record

Pair = Literal["adapter-base", "full-base", "full-adapter"]
"""Two models: KL(first ‖ second), and how the first one's residual stream differs from the second's."""


class Divergence(Record):
    """How far two models' next-token distributions are apart, and on how few tokens."""

    item: str
    """The pair."""
    pair: Pair
    """KL(first ‖ second)."""
    kl_nats: Estimate | None = None
    """Mean over the response's tokens; interval by bootstrap-t over documents, as of the others."""
    kl_shuffled_nats: Estimate | None = None
    """The same where the second model's distribution is that of another token of the same document and segment: how far
    two distributions of this text are apart that have nothing to do with each other."""
    top_share: Estimate | None = None
    """Share of the KL that the 1 % of tokens with the largest KL hold. The threshold is taken as given."""
    top_share_shuffled: Estimate | None = None
    """The same of the shuffled pairs."""
    correlation: Estimate | None = None
    """Spearman's correlation over tokens with the KL of adapter-base, mean over documents."""
    correlation_shuffled: Estimate | None = None
    """The same with the tokens of each document shuffled."""
    n_tokens: NonNegativeInt = 0
    """Tokens of the response that were measured."""
    n_documents: NonNegativeInt = 0
    """Documents."""
    reason: str | None = None
    """Why something is missing."""


class DocumentDivergence(Record):
    """The KL of every measured token of a document."""

    item: str
    """The document's id."""
    chat_hash: str
    """Hash of the format of its text."""
    first: NonNegativeInt
    """First token that was measured."""
    kl_nats: tuple[NonNegativeFloat, ...]
    """KL(adapter ‖ base) of the distribution that follows each token."""
    kl_full_nats: tuple[NonNegativeFloat, ...] | None = None
    """KL(full fine-tune ‖ base)."""
    reason: str | None = None
    """Why the full fine-tune's is missing."""


class PartingToken(Record):
    """A token after which adapter and base part most."""

    item: str
    """Its place, from 0."""
    document: str
    """The document's id."""
    position: NonNegativeInt
    """The token's place in it."""
    before: str
    """The text up to the token, and the token."""
    after: str
    """What follows in the text."""
    kl_nats: NonNegativeFloat
    """KL(adapter ‖ base) of the distribution that follows it."""
    kl_full_nats: NonNegativeFloat | None = None
    """KL(full fine-tune ‖ base)."""
    base_tokens: tuple[str, ...]
    """The base's most likely next tokens."""
    base_probabilities: tuple[float, ...]
    """Their probabilities."""
    adapter_tokens: tuple[str, ...]
    """The adapter's."""
    adapter_probabilities: tuple[float, ...]
    """Their probabilities."""
    full_tokens: tuple[str, ...] | None = None
    """The full fine-tune's."""
    full_probabilities: tuple[float, ...] | None = None
    """Their probabilities."""
    reason: str | None = None
    """Why the full fine-tune's are missing."""


class KindDivergence(Record):
    """How much of the KL a kind of token carries."""

    item: str
    """Pair, family and kind."""
    pair: Pair
    """KL(first ‖ second)."""
    family: Literal["class", "segment", "event"]
    """Where the kind comes from: the corpus's labels, the document's segments, patterns over its text."""
    kind: str
    """The kind."""
    n_kind: NonNegativeInt
    """Tokens of the kind among those measured. The KL is of the distribution that follows them."""
    n_tokens: NonNegativeInt
    """All tokens measured: of the response, and for segments the prompt's, too."""
    kl_share: float | None = None
    """Share of the KL that follows tokens of the kind."""
    ratio: Estimate | None = None
    """Mean KL after a token of the kind over the mean after all others; interval linearised over documents."""
    p_value: float | None = None
    """That the ratio is 1: Student's t of its logarithm over documents."""
    reason: str | None = None
    """Why something is missing."""


class ResidualChange(Record):
    """How a layer's output differs between two models on the same tokens."""

    item: str
    """Pair and layer."""
    pair: Pair
    """The first one's residual stream minus the second's."""
    layer: NonNegativeInt
    """Decoder layer whose output is compared."""
    relative_norm: Estimate
    """Sum of the norms of the change over the sum of the norms of the second's stream, over drawn response tokens."""
    relative_norm_shuffled: Estimate
    """The same where the first one's stream is that of another token of the document."""
    shares: tuple[float, ...]
    """Shares of the squared change in its first singular directions (not centred), the largest first."""
    shares_shuffled: tuple[float, ...]
    """The same of the shuffled pairs."""
    common_share: float
    """Squared norm of the mean change over the mean squared norm: 1 where every token changes alike."""
    common_share_swapped: float
    """Its mean where it is drawn by lot for each document which of the two models is called the first."""
    first_common_share: float | None = None
    """As `common_share`, on the first tokens of what was written as question."""
    first_common_share_swapped: float | None = None
    """As `common_share_swapped`, on those tokens."""
    promoted: tuple[str, ...] = ()
    """Tokens that the mean change on those tokens promotes most, read through the final norm and the output matrix."""
    suppressed: tuple[str, ...] = ()
    """Tokens that it suppresses most."""
    cosine: Estimate | None = None
    """Cosine with the change of adapter-base on the same token, mean over tokens."""
    cosine_shuffled: Estimate | None = None
    """The same with the change on another token of the document."""
    n_tokens: NonNegativeInt
    """Drawn tokens of the response."""
    n_first: NonNegativeInt
    """First tokens."""
    n_documents: NonNegativeInt
    """Documents."""
    reason: str | None = None
    """Why something is missing."""
