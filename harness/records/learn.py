"""Records of dictionaries: the fitted dictionary, its quality, and the effects of its latents."""

from __future__ import annotations

from pathlib import Path

from pydantic import NonNegativeInt

from harness.records.base import Estimate, Record, Source


class Dictionary(Record):
    """A fitted dictionary over an activation set."""

    IDENTITY = ("name",)

    item: str = "dictionary"
    """Name within the step."""
    name: str
    """The learner's name; the source name of its latents."""
    path: Path
    """Folder with the dictionary in its learner's format, e.g. SAELens'."""
    columns: tuple[str, ...]
    """Columns it was fitted on, in order: a dictionary of other columns is refused."""
    n_latents: NonNegativeInt
    """Size of the dictionary."""
    k: float
    """Latents per token it was trained for (the target L0)."""
    signed: bool = False
    """Whether a latent is active in both directions: two features, `latent0+` and `latent0-`."""
    losses: tuple[tuple[int, float], ...] = ()
    """(step, training loss)."""


class DictionaryScore(Record):
    """Quality of a dictionary, measured in the same way for all. Intervals are 95 %, bootstrap-t over documents."""

    IDENTITY = ("name",)

    item: str = "score"
    """Name within the step."""
    name: str
    """The dictionary."""
    n_latents: NonNegativeInt
    """Size."""
    n_alive: NonNegativeInt
    """Latents active on at least one token of a full pass, special and first tokens not counted (as for features)."""
    signed: bool = False
    """Whether a latent is active in both directions."""
    k: float
    """Target L0."""
    density_histogram: tuple[NonNegativeInt, ...] = ()
    """Alive latents per half decade of density (active tokens per token), from 1e-6 to 1; rarer ones in the first."""
    n_tokens_alive: NonNegativeInt = 0
    """Tokens of the full pass."""
    fvu: Estimate
    """Fraction of variance *un*explained on held-out documents: 0 perfect, 1 predicting the mean; can exceed 1."""
    l0: Estimate
    """Active latents per token on held-out documents; a latent of either sign counts once."""
    n_tokens: NonNegativeInt
    """Held-out tokens."""
    n_documents: NonNegativeInt
    """Held-out documents."""
    kl_base_nats: Estimate | None = None
    """KL(adapter ‖ base) on held-out documents, per token of the response (trace and answer): the scale."""
    kl_splice_nats: Estimate | None = None
    """KL(adapter ‖ adapter with its scalars replaced by the reconstruction), per token of the response."""
    kl_recovered: Estimate | None = None
    """1 - kl_splice / kl_base: 1 is a perfect splice, 0 is as far as the base model; can be negative."""
    n_splice_documents: NonNegativeInt = 0
    """Held-out documents that were run through the model."""
    n_splice_tokens: NonNegativeInt = 0
    """Tokens of their responses."""
    kl_base_nats_prompt: Estimate | None = None
    """KL(adapter ‖ base) per token of the prompt."""
    kl_splice_nats_prompt: Estimate | None = None
    """KL of the splice per token of the prompt."""
    kl_recovered_prompt: Estimate | None = None
    """Recovered over the prompt."""
    n_splice_tokens_prompt: NonNegativeInt = 0
    """Tokens of their prompts."""
    kl_recovered_trace: Estimate | None = None
    """Recovered over the reasoning trace."""
    kl_recovered_answer: Estimate | None = None
    """Recovered over the answer."""
    kl_base_nats_all: Estimate | None = None
    """KL(adapter ‖ base) per token, the prompt's too."""
    kl_splice_nats_all: Estimate | None = None
    """KL of the splice per token, the prompt's too."""
    kl_recovered_all: Estimate | None = None
    """Recovered over all tokens."""
    n_splice_tokens_all: NonNegativeInt = 0
    """All their tokens."""
    stability: Estimate | None = None
    """Mean cosine of the alive latents' decoder rows with those of a fit with another seed, matched one to one, in
    units of the columns' standard deviations; of signed latents its absolute value. 1: the seed does not matter. The
    interval is a bootstrap-t over pairs of latents."""
    n_matched: NonNegativeInt = 0
    """Pairs of latents."""
    stable_share: Estimate | None = None
    """Share of the pairs whose cosine is above 0.9, Wilson's interval: the mean hides whether it is all or none."""
    chance_cosine: float | None = None
    """The stability of chance: the same latents matched with as many random directions."""
    activations: Source | None = None
    """The activation set that it was fitted and judged on; dictionaries of other sets are no rivals of it."""
    by_document: tuple[tuple[float, float, float, int], ...] = ()
    """Per held-out document, in the set's order: squared error, squared distance from the mean, active latents (summed
    over tokens), tokens; for paired comparisons."""
    reason: str | None = None
    """Why a KL or the stability is None."""


class LatentEffect(Record):
    """The effect of removing one latent's contribution from the adapter's scalars; the dictionary's residual stays."""

    IDENTITY = ("source", "latent")
    INDEXES = (("source", "latent"),)

    item: str
    """`effect:` and the latent."""
    source: Source
    """The dictionary."""
    latent: str
    """Its column in the activation set of latents, e.g. `latent12`; both polarities of a signed one."""
    kl_nats: Estimate
    """KL(adapter ‖ adapter without it), per token of held-out documents' responses, whether it is active there or not;
    interval by bootstrap-t over documents."""
    n_active: NonNegativeInt
    """Held-out tokens of responses on which it is active."""
    n_tokens: NonNegativeInt
    """Held-out tokens of responses."""
    n_documents: NonNegativeInt
    """Held-out documents."""
    kl_nats_prompt: Estimate | None = None
    """KL per token of the prompts."""
    n_tokens_prompt: NonNegativeInt = 0
    """Held-out tokens of prompts."""
    kl_nats_all: Estimate | None = None
    """KL per token, the prompts' too."""
    n_tokens_all: NonNegativeInt = 0
    """Held-out tokens."""
