"""What an LLM says of benchmark answers, beside the rules' scores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "answer_verdict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("variant", "benchmark")),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("doc_id", "repeat")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("grader", "compared")),
        sa.Column("score_rules", sa.Double(), nullable=False),
        *(sa.Column(name, sa.Boolean(), nullable=True) for name in ("equal_gold_first", "equal_gold_last", "equal")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("status", "reason")),
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name="fk_answer_verdict_step_id_step", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_answer_verdict"),
        sa.UniqueConstraint("step_id", "item", name="uq_answer_verdict_step_id_item"),
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_table("answer_verdict")
