"""The tables. One row per thing that a report can name, singular names, no blobs: tensors are files.

Every record has a `step_id` and an `item`, its name within the step. Units are in the names (`wall_s`, `kl_nats`),
times are ISO 8601 in UTC. A value that is missing is NULL and has a `reason` beside it. Only portable types: the same
tables serve SQLite and PostgreSQL. A change here needs a new file in `migrations/versions` and a new `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, MetaData, String, Text, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Count = Annotated[int, mapped_column(BigInteger)]
"""A number that can exceed 2^31 (parameters, tokens, seeds)."""


class Base(DeclarativeBase):
    """Base of all tables: constraints have predictable names, so that migrations can refer to them."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class StudyRun(Base):
    """One call of `harness run`."""

    __tablename__ = "study_run"

    id: Mapped[int] = mapped_column(primary_key=True)
    study: Mapped[str]
    preset: Mapped[str | None]
    seed: Mapped[Count]
    model: Mapped[str | None]
    device: Mapped[str | None]
    argv: Mapped[str]
    started_at: Mapped[str]
    finished_at: Mapped[str | None]
    status: Mapped[str]
    reason: Mapped[str | None]
    git_sha: Mapped[str | None]
    git_dirty: Mapped[bool | None]
    versions_json: Mapped[dict[str, Any]]
    paper_names_json: Mapped[dict[str, Any]]


class Step(Base):
    """One step of a study; its key is the hash of everything that its result depends on."""

    __tablename__ = "step"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str]
    stage: Mapped[str]
    plugin: Mapped[str | None]
    plugin_version: Mapped[str | None]
    config_json: Mapped[dict[str, Any]]
    inputs_json: Mapped[list[Any]]
    seed: Mapped[Count]
    device: Mapped[str | None]
    engine: Mapped[str | None]
    git_sha: Mapped[str | None]
    git_dirty: Mapped[bool | None]
    status: Mapped[str]
    reason: Mapped[str | None]
    wall_s: Mapped[float | None]
    artifact: Mapped[str | None]
    output_json: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    started_at: Mapped[str]
    finished_at: Mapped[str | None]


class RunStep(Base):
    """Which steps a run did or reused, in order."""

    __tablename__ = "run_step"
    __table_args__ = (UniqueConstraint("run_id", "position"),)

    run_id: Mapped[int] = mapped_column(ForeignKey("study_run.id", ondelete="CASCADE"), primary_key=True)
    step_id: Mapped[int] = mapped_column(ForeignKey("step.id", ondelete="CASCADE"), primary_key=True, index=True)
    position: Mapped[int]
    reused: Mapped[bool]


class Stored:
    """What every record has: the step that made it and its name within the step."""

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-3)
    item: Mapped[str] = mapped_column(sort_order=-1)

    @declared_attr
    def step_id(cls) -> Mapped[int]:
        """The step that made it; the record goes when the step goes."""
        return mapped_column(ForeignKey("step.id", ondelete="CASCADE"), sort_order=-2)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("step_id", "item"),)


class Checkpoint(Stored, Base):
    """A trained adapter or model."""

    __tablename__ = "checkpoint"

    kind: Mapped[str]
    path: Mapped[str]
    base_json: Mapped[dict[str, Any]]
    chat_hash: Mapped[str]
    n_parameters: Mapped[Count]
    n_examples: Mapped[int]
    n_truncated: Mapped[int]
    n_steps: Mapped[int]
    losses_json: Mapped[list[Any]]


class Evaluation(Stored, Base):
    """One model variant on one benchmark."""

    __tablename__ = "evaluation"

    variant: Mapped[str]
    benchmark: Mapped[str]
    n_items: Mapped[int]
    score: Mapped[float]
    chat_hash: Mapped[str]
    engine: Mapped[str]
    n_bound: Mapped[int | None]


class Sample(Base):
    """One benchmark item, one repeat, as answered."""

    __tablename__ = "sample"
    __table_args__ = (UniqueConstraint("evaluation_id", "doc_id", "repeat"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation.id", ondelete="CASCADE"))
    doc_id: Mapped[int]
    repeat: Mapped[int]
    prompt: Mapped[str]
    prompt_hash: Mapped[str]
    response: Mapped[str]
    extracted: Mapped[str | None]
    target: Mapped[str]
    score: Mapped[float]
    finish: Mapped[str | None]
    """`stop`, or `length` for an answer that the token limit cut."""
    n_tokens: Mapped[int | None]
    """Tokens written."""
    loops: Mapped[bool] = mapped_column(server_default=false())
    """Whether the answer ends in a loop."""


class ActivationSet(Stored, Base):
    """Activations on disk: one column per feature (or two, if signed), one row per token."""

    __tablename__ = "activation_set"

    source: Mapped[str]
    path: Mapped[str]
    site: Mapped[str]
    signed: Mapped[bool]
    n_columns: Mapped[int]
    n_tokens: Mapped[Count]
    n_documents: Mapped[int]
    chat_hash: Mapped[str]
    columns_json: Mapped[list[Any]]
    layers_json: Mapped[list[Any]]
    projections_json: Mapped[list[Any]]
    # NULL: captured before these were stored.
    dtype: Mapped[str | None]
    unit: Mapped[str | None]
    numerics: Mapped[str | None]
    sparse: Mapped[bool | None]
    n_split: Mapped[int | None]
    n_bytes: Mapped[int | None] = mapped_column(BigInteger)
    quantiles_json: Mapped[list[Any] | None] = mapped_column(JSON)


class Feature(Stored, Base):
    """A feature over tokens."""

    __tablename__ = "feature"

    source: Mapped[str]
    feature: Mapped[str]
    layer: Mapped[int | None]
    projection: Mapped[str | None]
    density_per_token: Mapped[float]
    activation_sum: Mapped[float]
    activation_max: Mapped[float]
    n_tokens: Mapped[Count]


class Exemplar(Base):
    """One activating context of a feature; rank 0 is the highest activation.

    `quantile` is NULL for the highest ones; sampled contexts have the share of active tokens that are lower.
    """

    __tablename__ = "exemplar"
    __table_args__ = (UniqueConstraint("feature_id", "rank"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    feature_id: Mapped[int] = mapped_column(ForeignKey("feature.id", ondelete="CASCADE"))
    rank: Mapped[int]
    document: Mapped[str]
    position: Mapped[int]
    start: Mapped[int]
    target: Mapped[int]
    quantile: Mapped[float | None]
    tokens_json: Mapped[list[Any]]
    activations_json: Mapped[list[Any]]


class Explanation(Stored, Base):
    """An explanation and its grade: 0 monosemantic, 1 broad but consistent, 2 polysemantic, NULL failed."""

    __tablename__ = "explanation"

    source: Mapped[str]
    feature: Mapped[str]
    interpreter: Mapped[str]
    explanation: Mapped[str | None]
    grade: Mapped[int | None]
    status: Mapped[str] = mapped_column(server_default="graded")
    reason: Mapped[str]
    raw: Mapped[str | None]
    rule: Mapped[str | None]
    n_exemplars: Mapped[int]


class Category(Stored, Base):
    """A functional category."""

    __tablename__ = "category"

    category: Mapped[str]
    parent: Mapped[str | None]
    name: Mapped[str]
    definition: Mapped[str]
    examples_json: Mapped[list[Any]]


class CategoryAssignment(Stored, Base):
    """A feature's category."""

    __tablename__ = "category_assignment"

    source: Mapped[str]
    feature: Mapped[str]
    category: Mapped[str]
    reason: Mapped[str | None]
    subcategory: Mapped[str | None]
    subcategory_reason: Mapped[str | None]


class LLMCall(Base):
    """The journal of LLM calls. A stored answer is replayed, never sent (or paid) again."""

    __tablename__ = "llm_call"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    step_id: Mapped[int | None] = mapped_column(ForeignKey("step.id", ondelete="SET NULL"), index=True)
    provider: Mapped[str]
    model: Mapped[str]
    role: Mapped[str]
    request_json: Mapped[dict[str, Any]]
    response_json: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str]
    error: Mapped[str | None]
    input_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    latency_s: Mapped[float]
    n_attempts: Mapped[int]
    price_usd: Mapped[float | None]
    stored_at: Mapped[str]
    settings_json: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    price_date: Mapped[str | None]
    final: Mapped[bool | None]
    batch: Mapped[str | None] = mapped_column(String(64), index=True)


class LLMBatch(Base):
    """Requests that were handed to a vendor's batch API together. `vendor_id` is NULL until the vendor confirmed it."""

    __tablename__ = "llm_batch"

    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(String(64), unique=True)
    step_id: Mapped[int | None] = mapped_column(ForeignKey("step.id", ondelete="SET NULL"), index=True)
    provider: Mapped[str]
    settings_json: Mapped[dict[str, Any]]
    role: Mapped[str]
    vendor_id: Mapped[str | None]
    status: Mapped[str]
    reason: Mapped[str | None]
    n_calls: Mapped[int]
    submitted_at: Mapped[str]
    collected_at: Mapped[str | None]


class PaperClaim(Base):
    """A number of the paper, for the column beside ours."""

    __tablename__ = "paper_claim"
    __table_args__ = (UniqueConstraint("place", "quantity", "subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str]
    quantity: Mapped[str]
    subject: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str]
    successes: Mapped[int | None]
    n: Mapped[int | None]
    comment: Mapped[str | None]


RECORDS: tuple[type[Any], ...] = (
    Checkpoint,
    Evaluation,
    ActivationSet,
    Feature,
    Explanation,
    Category,
    CategoryAssignment,
)
"""Tables here with `step_id` and `item`; `tables_judgements.RECORDS` has all."""

Index(None, Evaluation.benchmark, Evaluation.variant)
Index(None, Feature.source, Feature.feature)
Index(None, Explanation.source, Explanation.feature)
Index(None, CategoryAssignment.source, CategoryAssignment.feature)
