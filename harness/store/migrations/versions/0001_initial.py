"""The first schema: all tables, and views with readable names for people who open the file in sqlite3 or Datasette."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VIEWS = {
    "v_evaluation": """
        SELECT run_step.run_id, evaluation.variant, evaluation.benchmark, evaluation.n_items, evaluation.score,
            evaluation.engine, step.name AS step, step.status, step.git_sha, evaluation.id AS evaluation_id
        FROM evaluation
        JOIN step ON step.id = evaluation.step_id
        JOIN run_step ON run_step.step_id = step.id
    """,
    "v_feature": """
        SELECT run_step.run_id, feature.source, feature.feature, feature.layer, feature.projection,
            feature.density_per_token, feature.activation_max, explanation.interpreter, explanation.explanation,
            explanation.grade, explanation.reason, feature.id AS feature_id
        FROM feature
        JOIN run_step ON run_step.step_id = feature.step_id
        LEFT JOIN explanation ON explanation.source = feature.source AND explanation.feature = feature.feature
            AND explanation.step_id IN (SELECT other.step_id FROM run_step other WHERE other.run_id = run_step.run_id)
    """,
    "v_ablation": """
        SELECT run_step.run_id, step.name AS step, ablation_score.scope, ablation_score.layer,
            ablation_score.projection, ablation_score.group_name, ablation_score.mode, ablation_score.kl_nats,
            ablation_score.kl_ci_low, ablation_score.kl_ci_high, ablation_score.n_tokens, ablation_score.n_documents
        FROM ablation_score
        JOIN step ON step.id = ablation_score.step_id
        JOIN run_step ON run_step.step_id = step.id
    """,
    "v_dictionary": """
        SELECT run_step.run_id, dictionary_score.name, dictionary_score.n_latents, dictionary_score.n_alive,
            dictionary_score.fvu, dictionary_score.l0, dictionary_score.kl_splice_nats, dictionary_score.kl_base_nats,
            dictionary_score.kl_recovered, dictionary_score.n_tokens, dictionary_score.n_documents
        FROM dictionary_score
        JOIN run_step ON run_step.step_id = dictionary_score.step_id
    """,
}


def upgrade() -> None:
    """Create everything."""
    _create_bookkeeping()
    _create_journal()
    _create_measurements()
    _create_scores()
    _create_features()
    _create_indexes()
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select.strip()}")


def downgrade() -> None:
    """Drop everything."""
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")
    tables = (
        "exemplar", "sample", "run_step", "llm_call", "paper_claim", "checkpoint", "evaluation", "dictionary",
        "dictionary_score", "ablation_score", "activation_set", "feature", "explanation", "category",
        "category_assignment", "step", "study_run",
    )  # fmt: skip
    for name in tables:
        op.drop_table(name)


def _create_record(name: str, *columns: sa.Column[object]) -> None:
    """A table of records: what it has of its own, and the step that made it."""
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name=f"fk_{name}_step_id_step", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        sa.UniqueConstraint("step_id", "item", name=f"uq_{name}_step_id_item"),
    )


def _create_bookkeeping() -> None:
    """Runs and steps."""
    op.create_table(
        "study_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("argv", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("git_sha", sa.Text(), nullable=True),
        sa.Column("git_dirty", sa.Boolean(), nullable=True),
        sa.Column("versions_json", sa.JSON(), nullable=False),
        sa.Column("paper_names_json", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_study_run"),
    )
    op.create_table(
        "step",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("plugin", sa.Text(), nullable=True),
        sa.Column("plugin_version", sa.Text(), nullable=True),
        sa.Column("config_json", sa.JSON(), nullable=False),
        sa.Column("inputs_json", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("git_sha", sa.Text(), nullable=True),
        sa.Column("git_dirty", sa.Boolean(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("wall_s", sa.Double(), nullable=True),
        sa.Column("artifact", sa.Text(), nullable=True),
        sa.Column("output_json", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_step"),
        sa.UniqueConstraint("key", name="uq_step_key"),
    )
    op.create_table(
        "run_step",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["study_run.id"], name="fk_run_step_run_id_study_run", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name="fk_run_step_step_id_step", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "step_id", name="pk_run_step"),
        sa.UniqueConstraint("run_id", "position", name="uq_run_step_run_id_position"),
    )


def _create_journal() -> None:
    """LLM calls and the paper's numbers."""
    op.create_table(
        "llm_call",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("request_json", sa.JSON(), nullable=False),
        sa.Column("response_json", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("latency_s", sa.Double(), nullable=False),
        sa.Column("n_attempts", sa.Integer(), nullable=False),
        sa.Column("price_usd", sa.Double(), nullable=True),
        sa.Column("stored_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name="fk_llm_call_step_id_step", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_llm_call"),
        sa.UniqueConstraint("key", name="uq_llm_call_key"),
    )
    op.create_table(
        "paper_claim",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("successes", sa.Integer(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_paper_claim"),
        sa.UniqueConstraint("place", "quantity", "subject", name="uq_paper_claim_place_quantity_subject"),
    )


def _create_measurements() -> None:
    """Checkpoints and benchmark answers."""
    _create_record(
        "checkpoint",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("base_json", sa.JSON(), nullable=False),
        sa.Column("chat_hash", sa.Text(), nullable=False),
        sa.Column("n_parameters", sa.BigInteger(), nullable=False),
        sa.Column("n_examples", sa.Integer(), nullable=False),
        sa.Column("n_truncated", sa.Integer(), nullable=False),
        sa.Column("n_steps", sa.Integer(), nullable=False),
        sa.Column("losses_json", sa.JSON(), nullable=False),
    )
    _create_record(
        "evaluation",
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("benchmark", sa.Text(), nullable=False),
        sa.Column("n_items", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("chat_hash", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("n_bound", sa.Integer(), nullable=True),
    )
    op.create_table(
        "sample",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("doc_id", sa.Integer(), nullable=False),
        sa.Column("repeat", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("extracted", sa.Text(), nullable=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.id"], name="fk_sample_evaluation_id_evaluation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_sample"),
        sa.UniqueConstraint("evaluation_id", "doc_id", "repeat", name="uq_sample_evaluation_id_doc_id_repeat"),
    )


def _create_scores() -> None:
    """Dictionaries and ablations."""
    _create_record(
        "dictionary",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("n_latents", sa.Integer(), nullable=False),
        sa.Column("k", sa.Double(), nullable=False),
        sa.Column("columns_json", sa.JSON(), nullable=False),
        sa.Column("losses_json", sa.JSON(), nullable=False),
    )
    _create_record(
        "dictionary_score",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("n_latents", sa.Integer(), nullable=False),
        sa.Column("n_alive", sa.Integer(), nullable=False),
        sa.Column("k", sa.Double(), nullable=False),
        sa.Column("fvu", sa.Double(), nullable=False),
        sa.Column("fvu_ci_low", sa.Double(), nullable=False),
        sa.Column("fvu_ci_high", sa.Double(), nullable=False),
        sa.Column("l0", sa.Double(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_documents", sa.Integer(), nullable=False),
        sa.Column("kl_base_nats", sa.Double(), nullable=True),
        sa.Column("kl_splice_nats", sa.Double(), nullable=True),
        sa.Column("kl_recovered", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
    )
    _create_record(
        "ablation_score",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=True),
        sa.Column("projection", sa.Text(), nullable=True),
        sa.Column("rank_index", sa.Integer(), nullable=True),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("kl_nats", sa.Double(), nullable=False),
        sa.Column("kl_ci_low", sa.Double(), nullable=False),
        sa.Column("kl_ci_high", sa.Double(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_documents", sa.Integer(), nullable=False),
        sa.Column("n_components", sa.Integer(), nullable=False),
    )


def _create_features() -> None:
    """Features, their exemplars, explanations and categories."""
    _create_record(
        "activation_set",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("n_columns", sa.Integer(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_documents", sa.Integer(), nullable=False),
        sa.Column("chat_hash", sa.Text(), nullable=False),
        sa.Column("columns_json", sa.JSON(), nullable=False),
        sa.Column("layers_json", sa.JSON(), nullable=False),
        sa.Column("projections_json", sa.JSON(), nullable=False),
    )
    _create_record(
        "feature",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=True),
        sa.Column("projection", sa.Text(), nullable=True),
        sa.Column("density_per_token", sa.Double(), nullable=False),
        sa.Column("activation_sum", sa.Double(), nullable=False),
        sa.Column("activation_max", sa.Double(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "exemplar",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("feature_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("tokens_json", sa.JSON(), nullable=False),
        sa.Column("activations_json", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["feature_id"], ["feature.id"], name="fk_exemplar_feature_id_feature", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_exemplar"),
        sa.UniqueConstraint("feature_id", "rank", name="uq_exemplar_feature_id_rank"),
    )
    _create_record(
        "explanation",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("interpreter", sa.Text(), nullable=False),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=True),
        sa.Column("n_exemplars", sa.Integer(), nullable=False),
    )
    _create_record(
        "category",
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("examples_json", sa.JSON(), nullable=False),
    )
    _create_record(
        "category_assignment",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
    )


def _create_indexes() -> None:
    """What the reports look up by."""
    op.create_index("ix_category_assignment_source_feature", "category_assignment", ["source", "feature"])
    op.create_index("ix_evaluation_benchmark_variant", "evaluation", ["benchmark", "variant"])
    op.create_index("ix_explanation_source_feature", "explanation", ["source", "feature"])
    op.create_index("ix_feature_source_feature", "feature", ["source", "feature"])
    op.create_index("ix_llm_call_step_id", "llm_call", ["step_id"])
    op.create_index("ix_run_step_step_id", "run_step", ["step_id"])
