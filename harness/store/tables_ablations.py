"""The table of ablations: one row per thing that was switched off."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON
from sqlalchemy.orm import Mapped, mapped_column

from harness.store.tables import Base, Count, Stored


class AblationScore(Stored, Base):
    """What switching something off does: KL(full ‖ ablated) in nats per token."""

    __tablename__ = "ablation_score"

    scope: Mapped[str]
    layer: Mapped[int | None]
    projection: Mapped[str | None]
    rank_index: Mapped[int | None]
    # "group" is a reserved word of SQL
    group: Mapped[str | None] = mapped_column("group_name")
    mode: Mapped[str]
    kl_nats: Mapped[float]
    kl_ci_low: Mapped[float]
    kl_ci_high: Mapped[float]
    n_tokens: Mapped[Count]
    n_documents: Mapped[int]
    n_components: Mapped[int]
    method: Mapped[str]
    chosen_as: Mapped[str | None]
    reason: Mapped[str | None]
    fisher_nats: Mapped[float | None]
    fisher_ci_low: Mapped[float | None]
    fisher_ci_high: Mapped[float | None]
    n_draws: Mapped[int | None]
    null_floor_nats: Mapped[float | None]
    ce_nats: Mapped[float | None]
    ce_change_nats: Mapped[float | None]
    ce_change_ci_low: Mapped[float | None]
    ce_change_ci_high: Mapped[float | None]
    kl_prompt_nats: Mapped[float | None]
    kl_prompt_ci_low: Mapped[float | None]
    kl_prompt_ci_high: Mapped[float | None]
    n_tokens_prompt: Mapped[Count | None]
    kl_think_nats: Mapped[float | None]
    kl_think_ci_low: Mapped[float | None]
    kl_think_ci_high: Mapped[float | None]
    n_tokens_think: Mapped[Count | None]
    kl_answer_nats: Mapped[float | None]
    kl_answer_ci_low: Mapped[float | None]
    kl_answer_ci_high: Mapped[float | None]
    n_tokens_answer: Mapped[Count | None]
    document_kl_nats_json: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    document_n_tokens_json: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    place: Mapped[int | None]
    engine: Mapped[str | None]
