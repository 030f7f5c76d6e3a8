"""The tables of dictionaries: what was fitted, how good it is, what its latents do."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped

from harness.store.tables import Base, Count, Stored


class Dictionary(Stored, Base):
    """A fitted dictionary."""

    __tablename__ = "dictionary"

    name: Mapped[str]
    path: Mapped[str]
    n_latents: Mapped[int]
    k: Mapped[float]
    signed: Mapped[bool]
    columns_json: Mapped[list[Any]]
    losses_json: Mapped[list[Any]]


class DictionaryScore(Stored, Base):
    """How good a dictionary is: FVU, L0 and KLs (nats per token) on held-out documents."""

    __tablename__ = "dictionary_score"

    name: Mapped[str]
    n_latents: Mapped[int]
    n_alive: Mapped[int]
    signed: Mapped[bool]
    k: Mapped[float]
    density_histogram_json: Mapped[list[Any] | None]
    n_tokens_alive: Mapped[Count]
    fvu: Mapped[float]
    fvu_ci_low: Mapped[float]
    fvu_ci_high: Mapped[float]
    l0: Mapped[float]
    l0_ci_low: Mapped[float | None]
    l0_ci_high: Mapped[float | None]
    n_tokens: Mapped[Count]
    n_documents: Mapped[int]
    kl_base_nats: Mapped[float | None]
    kl_base_ci_low: Mapped[float | None]
    kl_base_ci_high: Mapped[float | None]
    kl_splice_nats: Mapped[float | None]
    kl_splice_ci_low: Mapped[float | None]
    kl_splice_ci_high: Mapped[float | None]
    kl_recovered: Mapped[float | None]
    kl_recovered_ci_low: Mapped[float | None]
    kl_recovered_ci_high: Mapped[float | None]
    n_splice_documents: Mapped[int]
    stability: Mapped[float | None]
    stability_ci_low: Mapped[float | None]
    stability_ci_high: Mapped[float | None]
    n_matched: Mapped[int]
    reason: Mapped[str | None]


class LatentEffect(Stored, Base):
    """What taking one latent out of the adapter's scalars does: KL in nats per token of held-out documents."""

    __tablename__ = "latent_effect"

    source: Mapped[str]
    latent: Mapped[str]
    kl_nats: Mapped[float]
    kl_ci_low: Mapped[float]
    kl_ci_high: Mapped[float]
    n_active: Mapped[Count]
    n_tokens: Mapped[Count]
    n_documents: Mapped[int]


Index(None, LatentEffect.source, LatentEffect.latent)

RECORDS: tuple[type[Any], ...] = (Dictionary, DictionaryScore, LatentEffect)
"""Tables with `step_id` and `item`."""
