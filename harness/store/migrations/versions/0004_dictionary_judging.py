"""Judging dictionaries: intervals, stability, densities; what single latents do; signed latents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0005"
branch_labels = None
depends_on = None

_INTERVALS = tuple(
    f"{name}_ci_{side}"
    for name in ("l0", "kl_base", "kl_splice", "kl_recovered", "stability")
    for side in ("low", "high")
)
_OLD_VIEW = """
    SELECT run_step.run_id, dictionary_score.name, dictionary_score.n_latents, dictionary_score.n_alive,
        dictionary_score.fvu, dictionary_score.l0, dictionary_score.kl_splice_nats, dictionary_score.kl_base_nats,
        dictionary_score.kl_recovered, dictionary_score.n_tokens, dictionary_score.n_documents
    FROM dictionary_score
    JOIN run_step ON run_step.step_id = dictionary_score.step_id
"""
_VIEW = """
    SELECT run_step.run_id, dictionary_score.name, dictionary_score.k, dictionary_score.n_latents,
        dictionary_score.n_alive, dictionary_score.signed, dictionary_score.l0, dictionary_score.fvu,
        dictionary_score.fvu_ci_low, dictionary_score.fvu_ci_high, dictionary_score.kl_splice_nats,
        dictionary_score.kl_base_nats, dictionary_score.kl_recovered, dictionary_score.kl_recovered_ci_low,
        dictionary_score.kl_recovered_ci_high, dictionary_score.stability, dictionary_score.stability_ci_low,
        dictionary_score.stability_ci_high, dictionary_score.n_tokens, dictionary_score.n_documents,
        dictionary_score.reason
    FROM dictionary_score
    JOIN run_step ON run_step.step_id = dictionary_score.step_id
"""
_LATENTS_VIEW = """
    SELECT run_step.run_id, latent_effect.source AS dictionary, latent_effect.latent, latent_effect.kl_nats,
        latent_effect.kl_ci_low, latent_effect.kl_ci_high, latent_effect.n_active, latent_effect.n_tokens,
        latent_effect.n_documents
    FROM latent_effect
    JOIN run_step ON run_step.step_id = latent_effect.step_id
"""


def upgrade() -> None:
    """Add what is measured now; older scores have none of it."""
    op.execute("DROP VIEW v_dictionary")
    with op.batch_alter_table("dictionary") as batch:
        batch.add_column(sa.Column("signed", sa.Boolean(), nullable=False, server_default="0"))
    with op.batch_alter_table("dictionary_score") as batch:
        batch.add_column(sa.Column("signed", sa.Boolean(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("density_histogram_json", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("n_tokens_alive", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("n_splice_documents", sa.Integer(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("n_matched", sa.Integer(), nullable=False, server_default="0"))
        for name in ("stability", *_INTERVALS):
            batch.add_column(sa.Column(name, sa.Double(), nullable=True))
    op.create_table(
        "latent_effect",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("latent", sa.Text(), nullable=False),
        sa.Column("kl_nats", sa.Double(), nullable=False),
        sa.Column("kl_ci_low", sa.Double(), nullable=False),
        sa.Column("kl_ci_high", sa.Double(), nullable=False),
        sa.Column("n_active", sa.BigInteger(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_documents", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["step_id"], ["step.id"], name="fk_latent_effect_step_id_step", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_latent_effect"),
        sa.UniqueConstraint("step_id", "item", name="uq_latent_effect_step_id_item"),
    )
    op.create_index("ix_latent_effect_source_latent", "latent_effect", ["source", "latent"])
    op.execute(f"CREATE VIEW v_dictionary AS {_VIEW.strip()}")
    op.execute(f"CREATE VIEW v_latent AS {_LATENTS_VIEW.strip()}")


def downgrade() -> None:
    """Drop what was added."""
    op.execute("DROP VIEW v_latent")
    op.execute("DROP VIEW v_dictionary")
    op.drop_index("ix_latent_effect_source_latent", "latent_effect")
    op.drop_table("latent_effect")
    with op.batch_alter_table("dictionary_score") as batch:
        for name in (
            *reversed(("stability", *_INTERVALS)), "n_matched", "n_splice_documents", "n_tokens_alive",
            "density_histogram_json", "signed",
        ):  # fmt: skip
            batch.drop_column(name)
    with op.batch_alter_table("dictionary") as batch:
        batch.drop_column("signed")
    op.execute(f"CREATE VIEW v_dictionary AS {_OLD_VIEW.strip()}")
