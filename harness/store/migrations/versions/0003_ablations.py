"""Ablations: cross-entropy, segments, Fisher estimates, null floors, and how each number was made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = """
    SELECT run_step.run_id, step.name AS step, ablation_score.scope, ablation_score.layer,
        ablation_score.projection, ablation_score.group_name, ablation_score.mode, ablation_score.kl_nats,
        ablation_score.kl_ci_low, ablation_score.kl_ci_high, ablation_score.n_tokens, ablation_score.n_documents
    FROM ablation_score
    JOIN step ON step.id = ablation_score.step_id
    JOIN run_step ON run_step.step_id = step.id
"""
_AFTER = """
    SELECT run_step.run_id, step.name AS step, ablation_score.scope, ablation_score.layer,
        ablation_score.projection, ablation_score.group_name, ablation_score.mode, ablation_score.method,
        ablation_score.kl_nats, ablation_score.kl_ci_low, ablation_score.kl_ci_high, ablation_score.null_floor_nats,
        ablation_score.fisher_nats, ablation_score.ce_change_nats, ablation_score.kl_prompt_nats,
        ablation_score.kl_think_nats, ablation_score.kl_answer_nats, ablation_score.n_tokens,
        ablation_score.n_documents
    FROM ablation_score
    JOIN step ON step.id = ablation_score.step_id
    JOIN run_step ON run_step.step_id = step.id
"""


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("method", sa.Text(), nullable=False, server_default="exact"),
        sa.Column("chosen_as", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("fisher_nats", sa.Double(), nullable=True),
        sa.Column("fisher_ci_low", sa.Double(), nullable=True),
        sa.Column("fisher_ci_high", sa.Double(), nullable=True),
        sa.Column("n_draws", sa.Integer(), nullable=True),
        sa.Column("null_floor_nats", sa.Double(), nullable=True),
        sa.Column("ce_nats", sa.Double(), nullable=True),
        sa.Column("ce_change_nats", sa.Double(), nullable=True),
        sa.Column("ce_change_ci_low", sa.Double(), nullable=True),
        sa.Column("ce_change_ci_high", sa.Double(), nullable=True),
        sa.Column("kl_prompt_nats", sa.Double(), nullable=True),
        sa.Column("kl_prompt_ci_low", sa.Double(), nullable=True),
        sa.Column("kl_prompt_ci_high", sa.Double(), nullable=True),
        sa.Column("n_tokens_prompt", sa.BigInteger(), nullable=True),
        sa.Column("kl_think_nats", sa.Double(), nullable=True),
        sa.Column("kl_think_ci_low", sa.Double(), nullable=True),
        sa.Column("kl_think_ci_high", sa.Double(), nullable=True),
        sa.Column("n_tokens_think", sa.BigInteger(), nullable=True),
        sa.Column("kl_answer_nats", sa.Double(), nullable=True),
        sa.Column("kl_answer_ci_low", sa.Double(), nullable=True),
        sa.Column("kl_answer_ci_high", sa.Double(), nullable=True),
        sa.Column("n_tokens_answer", sa.BigInteger(), nullable=True),
        sa.Column("document_kl_nats_json", sa.JSON(), nullable=True),
        sa.Column("document_n_tokens_json", sa.JSON(), nullable=True),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=True),
    ]


def upgrade() -> None:
    """Scores that exist were all measured."""
    op.execute("DROP VIEW v_ablation")
    for column in _columns():
        op.add_column("ablation_score", column)
    op.execute(f"CREATE VIEW v_ablation AS {_AFTER.strip()}")


def downgrade() -> None:
    """Back to KL alone."""
    op.execute("DROP VIEW v_ablation")
    with op.batch_alter_table("ablation_score") as table:
        for column in reversed(_columns()):
            table.drop_column(column.name)
    op.execute(f"CREATE VIEW v_ablation AS {_BEFORE.strip()}")
