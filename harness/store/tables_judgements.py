"""The tables of judgements: planted features, trials, scores of explanations, enrichment, verdicts on answers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from harness.store import tables, tables_dictionaries
from harness.store.tables import Base, Count, Stored
from harness.store.tables_ablations import AblationScore


class PlantedFeature(Stored, Base):
    """A made feature whose right grade is known."""

    __tablename__ = "planted_feature"

    source: Mapped[str]
    feature: Mapped[str]
    kind: Mapped[str]
    concepts_json: Mapped[list[Any]]
    right_grade: Mapped[int]


class JudgeTrial(Stored, Base):
    """A feature graded once more: the same request, another order of contexts, or another judge."""

    __tablename__ = "judge_trial"

    source: Mapped[str]
    feature: Mapped[str]
    interpreter: Mapped[str]
    condition: Mapped[str]
    trial: Mapped[int]
    explanation: Mapped[str | None]
    grade: Mapped[int | None]
    status: Mapped[str]
    reason: Mapped[str]
    raw: Mapped[str | None]


class ExplanationScore(Stored, Base):
    """How well an explanation predicts on held-out contexts."""

    __tablename__ = "explanation_score"

    source: Mapped[str]
    feature: Mapped[str]
    interpreter: Mapped[str]
    kind: Mapped[str]
    n_positive: Mapped[int]
    n_negative: Mapped[int]
    n_hard: Mapped[int]
    n_unanswered: Mapped[int]
    balanced_accuracy: Mapped[float | None]
    auc: Mapped[float | None]
    reason: Mapped[str | None]
    contexts_json: Mapped[list[Any]]


class Enrichment(Stored, Base):
    """What a feature fires on."""

    __tablename__ = "enrichment"

    source: Mapped[str]
    feature: Mapped[str]
    active_above: Mapped[float]
    n_active: Mapped[Count]
    n_tokens: Mapped[Count]
    n_documents: Mapped[int]
    top_class: Mapped[str | None]
    top_class_share: Mapped[float | None]
    reason: Mapped[str | None]


class EventAssociation(Base):
    """How a feature's activity goes with one kind of token."""

    __tablename__ = "event_association"
    __table_args__ = (UniqueConstraint("enrichment_id", "family", "event"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    enrichment_id: Mapped[int] = mapped_column(ForeignKey("enrichment.id", ondelete="CASCADE"))
    family: Mapped[str]
    event: Mapped[str]
    n_event: Mapped[Count]
    n_both: Mapped[Count]
    activation_share: Mapped[float | None]
    odds_ratio: Mapped[float | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    p_value: Mapped[float | None]
    q_value: Mapped[float | None]
    reason: Mapped[str | None]


class CategoryTrial(Stored, Base):
    """A feature's category in a re-run of the categorisation."""

    __tablename__ = "category_trial"

    source: Mapped[str]
    feature: Mapped[str]
    interpreter: Mapped[str]
    trial: Mapped[int]
    category: Mapped[str]
    reason: Mapped[str | None]


class AnswerVerdict(Stored, Base):
    """What an LLM said of one benchmark answer; `equal` is NULL with a reason, and the rules' score stands."""

    __tablename__ = "answer_verdict"

    variant: Mapped[str]
    benchmark: Mapped[str]
    doc_id: Mapped[int]
    repeat: Mapped[int]
    grader: Mapped[str]
    compared: Mapped[str]
    score_rules: Mapped[float]
    equal_gold_first: Mapped[bool | None]
    equal_gold_last: Mapped[bool | None]
    equal: Mapped[bool | None]
    status: Mapped[str]
    reason: Mapped[str]


RECORDS: tuple[type[Any], ...] = (
    *tables.RECORDS,
    AblationScore,
    *tables_dictionaries.RECORDS,
    PlantedFeature,
    JudgeTrial,
    ExplanationScore,
    Enrichment,
    CategoryTrial,
    AnswerVerdict,
)
"""All tables with `step_id` and `item`."""

Index(None, JudgeTrial.source, JudgeTrial.feature)
Index(None, ExplanationScore.source, ExplanationScore.feature)
Index(None, Enrichment.source, Enrichment.feature)
