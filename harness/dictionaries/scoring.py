"""Scoring: how good a dictionary is, the same arithmetic for all of them.

FVU, L0 and KLs are of held-out documents (`StoredActivations.split`), which learners must not train on; what is alive,
and how dense, is of all documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.activations.latents import refuse_other_columns
from harness.activations.store import StoredActivations
from harness.activations.units import in_raw_units
from harness.contract.codec import Codec
from harness.contract.context import RunContext
from harness.dictionaries.activity import Activity, activity, chunks
from harness.dictionaries.effects import latent_effects
from harness.dictionaries.stability import decoder_rows, matched_cosines
from harness.model.own_runs import OwnRuns
from harness.model.splice import SpliceSums, splice_kl
from harness.model.subject import Subject
from harness.records import Dictionary, DictionaryScore, LatentEffect
from harness.records.segments import HEADLINE, TOKENS_OF, TokensOf, field_of, places
from harness.stats import Estimate, ratio_over_documents, share

if TYPE_CHECKING:
    from jaxtyping import Float


_BESIDE: tuple[TokensOf, ...] = (HEADLINE, "prompt", "all")
"""Tokens that KLs in nats are stored over; what a splice recovers is stored over each segment, too."""
STABLE = 0.9
"""Cosine above which two fits are said to have found the same latent."""


@dataclass(frozen=True)
class Reconstruction:
    """Sums over held-out documents.

    Attributes:
        residual: [document] squared error summed over tokens and columns, in the columns' raw units.
        total: [document] squared distance from the held-out mean of each column.
        active: [document] active latents, summed over tokens.
        n_tokens: [document].
    """

    residual: Float[np.ndarray, " document"]
    total: Float[np.ndarray, " document"]
    active: Float[np.ndarray, " document"]
    n_tokens: np.ndarray


@dataclass(frozen=True)
class Causal:
    """The KLs of a splice with their intervals, as fields of the score, or why there are none."""

    fields: dict[str, Any]
    reason: str | None = None


@dataclass(frozen=True)
class Stability:
    """What two fits have in common, or why that is not known."""

    mean_cosine: Estimate | None = None
    stable_share: Estimate | None = None
    chance: float | None = None
    n_pairs: int = 0
    reason: str | None = None


def score_dictionary(
    dictionary: Dictionary,
    codec: Codec,
    stored: StoredActivations,
    subject: Subject | None,
    run: RunContext,
    *,
    active: Activity | None = None,
    second: tuple[Dictionary, Codec] | None = None,
    splice_documents: int = 64,
    runs: OwnRuns | None = None,
) -> DictionaryScore:
    """Score a dictionary.

    Args:
        dictionary: what is scored.
        codec: the dictionary, opened.
        stored: the set it was fitted on.
        subject: the adapter the set was read from; None leaves the KLs out.
        run: seed of the bootstrap, and progress.
        active: its activity over the set; None counts it here.
        second: the same learner fitted with another seed; None leaves the stability out.
        splice_documents: most held-out documents that are run through the model; 0 leaves the KLs out.
        runs: the subject's own runs, which several dictionaries share; None makes them here.

    Raises:
        DataError: the dictionary was fitted on other columns.
    """
    refuse_other_columns(dictionary, stored)
    ids = stored.split().held_out
    sums = reconstruction(codec, stored, ids)
    fvu = ratio_over_documents(sums.residual, sums.total, seed=run.seed)
    l0 = ratio_over_documents(sums.active, sums.n_tokens, seed=run.seed)
    active = active or activity(codec, stored, dictionary.n_latents)
    stability = _stability(dictionary, codec, active, stored, second, run.seed)
    causal = _causal(codec, stored, ids[:splice_documents], subject, run, runs)
    return DictionaryScore(
        name=dictionary.name,
        n_latents=dictionary.n_latents,
        n_alive=int(active.alive.sum()),
        signed=dictionary.signed,
        k=dictionary.k,
        density_histogram=active.histogram(),
        n_tokens_alive=active.n_tokens,
        fvu=fvu,
        l0=l0,
        n_tokens=int(sums.n_tokens.sum()),
        n_documents=len(ids),
        **causal.fields,
        stability=stability.mean_cosine,
        n_matched=stability.n_pairs,
        stable_share=stability.stable_share,
        chance_cosine=stability.chance,
        activations=stored.set.source,
        by_document=tuple(
            zip(*(column.tolist() for column in (sums.residual, sums.total, sums.active, sums.n_tokens)), strict=True)
        ),
        reason="; ".join(filter(None, (causal.reason, stability.reason))) or None,
    )


@torch.no_grad()
def reconstruction(codec: Codec, stored: StoredActivations, documents: tuple[str, ...]) -> Reconstruction:
    """Residual and total sums of squares per document; their ratio of sums is the FVU.

    Raw units, ranked tokens: a column counts by its variance. The mean is that of these documents, per column.
    """
    mean = torch.from_numpy(stored.moments(documents).mean)
    rows: list[tuple[float, float, float, int]] = []
    for document in stored.documents(documents):
        residual = total = active = 0.0
        for x in chunks(document):
            z = codec.encode(x)
            residual += float((x.double() - codec.decode(z).cpu().double()).square().sum())
            total += float((x.double() - mean).square().sum())
            active += float((z != 0).sum())
        rows.append((residual, total, active, int(document.ranked.sum())))
    table = np.array(rows, dtype=np.float64)
    return Reconstruction(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.int64))


def score_latents(
    dictionary: Dictionary,
    codec: Codec,
    stored: StoredActivations,
    subject: Subject,
    active: Activity,
    run: RunContext,
    *,
    n_latents: int = 16,
    max_documents: int = 64,
    runs: OwnRuns | None = None,
) -> list[LatentEffect]:
    """What the most active latents do to the model, one by one, on held-out documents (`latent_effects`).

    Args:
        dictionary: whose latents.
        codec: the dictionary, opened.
        stored: the set it was fitted on.
        subject: the adapter the set was read from.
        active: its activity: the `n_latents` largest sums are chosen.
        run: seed of the bootstrap, and progress.
        n_latents: most latents.
        max_documents: most held-out documents.
        runs: see `score_dictionary`.
    """
    if no_splice_reason(stored, subject) or not n_latents or not max_documents:
        return []
    documents = [d.document() for d in stored.documents(stored.split().held_out[:max_documents])]
    chosen = active.most_active(n_latents)
    raw = in_raw_units(codec, stored)
    sums = latent_effects(runs or subject, documents, raw, chosen, decoder_rows(raw, dictionary.n_latents), run)
    effects = []
    for row, latent in enumerate(chosen):
        kls = {
            field_of("kl_nats", of): ratio_over_documents(_over(sums.nats[row], of), n, seed=run.seed)
            for of in _BESIDE
            if (n := _over(sums.n_tokens, of)).sum()
        }
        effects.append(
            LatentEffect(
                item=f"effect:latent{latent}",
                source=dictionary.name,
                latent=f"latent{latent}",
                **kls,
                n_active=int(_over(sums.n_active[row], HEADLINE).sum()),
                **{field_of("n_tokens", of): int(_over(sums.n_tokens, of).sum()) for of in _BESIDE},
                n_documents=len(documents),
            )
        )
    return effects


def no_splice_reason(stored: StoredActivations, subject: Subject | None) -> str | None:
    """Why a dictionary of this set cannot be spliced into the subject; None where it can."""
    if subject is None:
        return "no model was given"
    if tuple(c.name for c in subject.components) != stored.columns:
        return f"{stored.set.source} does not read the adapter's scalars, so they cannot be replaced"
    return None


def _causal(
    codec: Codec,
    stored: StoredActivations,
    ids: tuple[str, ...],
    subject: Subject | None,
    run: RunContext,
    runs: OwnRuns | None,
) -> Causal:
    if not ids:
        return Causal({}, reason="KL not measured (judging.splice_documents=0)")
    reason = no_splice_reason(stored, subject)
    if reason is not None or subject is None:
        return Causal({}, reason=reason)
    documents = [d.document() for d in stored.documents(ids)]
    sums: SpliceSums = splice_kl(runs or subject, documents, in_raw_units(codec, stored), run)
    fields: dict[str, Any] = {"n_splice_documents": len(ids)}
    for of in TOKENS_OF:
        splice, base, n_tokens = (_over(x, of) for x in (sums.splice_nats, sums.base_nats, sums.n_tokens))
        if of in _BESIDE:
            fields[field_of("n_splice_tokens", of)] = int(n_tokens.sum())
        if of in _BESIDE and n_tokens.sum():
            fields[field_of("kl_splice_nats", of)] = ratio_over_documents(splice, n_tokens, seed=run.seed)
            fields[field_of("kl_base_nats", of)] = ratio_over_documents(base, n_tokens, seed=run.seed)
        if base.sum() > 0:
            lost = ratio_over_documents(splice, base, seed=run.seed)
            recovered = Estimate(1 - lost.value, 1 - lost.high, 1 - lost.low, lost.n)
            fields[field_of("kl_recovered", of)] = recovered
    if "kl_recovered" not in fields:
        reason = "the adapter changes no prediction in these responses (KL to the base is 0)"
    return Causal(fields, reason)


def _over(sums: np.ndarray, tokens_of: TokensOf) -> np.ndarray:
    """Sums of each document over some tokens, from those of its segments (the last axis)."""
    total: np.ndarray = sums[..., places(tokens_of)].sum(-1)
    return total


def _stability(
    dictionary: Dictionary,
    codec: Codec,
    active: Activity,
    stored: StoredActivations,
    second: tuple[Dictionary, Codec] | None,
    seed: int,
) -> Stability:
    """Matched cosines of the alive latents' decoder rows with another fit's, and with those of random directions."""
    if second is None:
        return Stability(reason="stability not measured (judging.second_fit=true fits once more)")
    record, other = second
    other_active = activity(other, stored, record.n_latents)
    std = stored.moments(stored.split().train).std
    scale = np.where(std > 0, std, 1.0)
    first = decoder_rows(codec, dictionary.n_latents)[active.alive] / scale
    rest = decoder_rows(other, record.n_latents)[other_active.alive] / scale
    if not len(first) or not len(rest):
        return Stability(reason="no latent is alive, so none can be matched")
    cosines = matched_cosines(first, rest, signed=dictionary.signed)
    mean_cosine = ratio_over_documents(cosines, np.ones_like(cosines), seed=seed)
    random = np.random.default_rng(seed).normal(size=rest.shape)
    chance = float(matched_cosines(first, random, signed=dictionary.signed).mean())
    return Stability(mean_cosine, share(int((cosines > STABLE).sum()), len(cosines)), chance, len(cosines))
