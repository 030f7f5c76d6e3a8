"""Judgements: planted features, trials, scores, enrichment, subcategories, and what became of each grading."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = ("planted_feature", "judge_trial", "explanation_score", "enrichment", "category_trial")


def upgrade() -> None:
    """Add them. Explanations that are there get the status that their reason tells of."""
    _create_records()
    op.create_table(
        "event_association",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("enrichment_id", sa.Integer(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("n_event", sa.BigInteger(), nullable=False),
        sa.Column("n_both", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.Double(), nullable=True)
            for name in ("activation_share", "odds_ratio", "ci_low", "ci_high", "p_value", "q_value")
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["enrichment_id"], ["enrichment.id"], name="fk_event_association_enrichment_id_enrichment",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_event_association"),
        sa.UniqueConstraint(
            "enrichment_id", "family", "event", name="uq_event_association_enrichment_id_family_event"
        ),
    )  # fmt: skip
    for name in ("judge_trial", "explanation_score", "enrichment"):
        op.create_index(f"ix_{name}_source_feature", name, ["source", "feature"])
    _extend_what_is_there()


def downgrade() -> None:
    """Take them away."""
    op.drop_table("event_association")
    for name in reversed(TABLES):
        op.drop_table(name)
    for table, columns in _COLUMNS.items():
        for column in columns:  # alembic would rebuild the table, which the views that read it forbid
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


_COLUMNS = {
    "explanation": ("status", "rule"),
    "category": ("parent",),
    "category_assignment": ("subcategory", "subcategory_reason"),
}


def _extend_what_is_there() -> None:
    op.add_column("explanation", sa.Column("status", sa.Text(), nullable=False, server_default="graded"))
    op.execute(
        "UPDATE explanation SET status = CASE WHEN reason LIKE 'dead%' THEN 'dead' "
        "WHEN reason LIKE 'too few contexts%' THEN 'too-few-contexts' WHEN raw IS NOT NULL THEN 'unparsed' "
        "ELSE 'failed' END WHERE grade IS NULL"
    )
    op.add_column("explanation", sa.Column("rule", sa.Text(), nullable=True))
    op.add_column("category", sa.Column("parent", sa.Text(), nullable=True))
    op.add_column("category_assignment", sa.Column("subcategory", sa.Text(), nullable=True))
    op.add_column("category_assignment", sa.Column("subcategory_reason", sa.Text(), nullable=True))


def _create_record(name: str, *columns: sa.Column[object]) -> None:
    """A table of records: what it has of its own, and the step that made it."""
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name=f"fk_{name}_step_id_step", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        sa.UniqueConstraint("step_id", "item", name=f"uq_{name}_step_id_item"),
    )


def _create_records() -> None:
    _create_record(
        "planted_feature",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("concepts_json", sa.JSON(), nullable=False),
        sa.Column("right_grade", sa.Integer(), nullable=False),
    )
    _create_record(
        "judge_trial",
        sa.Column("interpreter", sa.Text(), nullable=False),
        sa.Column("condition", sa.Text(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=True),
    )
    _create_record(
        "explanation_score",
        sa.Column("interpreter", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("n_positive", sa.Integer(), nullable=False),
        sa.Column("n_negative", sa.Integer(), nullable=False),
        sa.Column("n_hard", sa.Integer(), nullable=False),
        sa.Column("n_unanswered", sa.Integer(), nullable=False),
        sa.Column("balanced_accuracy", sa.Double(), nullable=True),
        sa.Column("auc", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("contexts_json", sa.JSON(), nullable=False),
    )
    _create_record(
        "enrichment",
        sa.Column("active_above", sa.Double(), nullable=False),
        sa.Column("n_active", sa.BigInteger(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_documents", sa.Integer(), nullable=False),
        sa.Column("top_class", sa.Text(), nullable=True),
        sa.Column("top_class_share", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
    )
    _create_record(
        "category_trial",
        sa.Column("interpreter", sa.Text(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
    )
