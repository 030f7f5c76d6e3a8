"""Batches of LLM calls; what of a provider's settings decided an answer, and which price table its price came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns; calls that are stored keep what they have."""
    op.create_table(
        "llm_batch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("settings_json", sa.JSON(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("vendor_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("n_calls", sa.Integer(), nullable=False),
        sa.Column("submitted_at", sa.Text(), nullable=False),
        sa.Column("collected_at", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name="fk_llm_batch_step_id_step", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_llm_batch"),
        sa.UniqueConstraint("label", name="uq_llm_batch_label"),
    )
    op.create_index("ix_llm_batch_step_id", "llm_batch", ["step_id"])
    # columns without constraints are added in place: the journal can be large, and a copy takes as much disk again
    op.add_column("llm_call", sa.Column("settings_json", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("llm_call", sa.Column("price_date", sa.Text(), nullable=True))
    op.add_column("llm_call", sa.Column("final", sa.Boolean(), nullable=True))
    op.add_column("llm_call", sa.Column("batch", sa.String(64), nullable=True))
    op.create_index("ix_llm_call_batch", "llm_call", ["batch"])


def downgrade() -> None:
    """Take them away."""
    op.drop_index("ix_llm_call_batch", "llm_call")
    for name in ("batch", "final", "price_date", "settings_json"):
        op.drop_column("llm_call", name)
    op.drop_index("ix_llm_batch_step_id", "llm_batch")
    op.drop_table("llm_batch")
