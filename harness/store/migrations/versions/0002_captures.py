"""What a capture is made of, and contexts sampled over a feature's quantiles beside its highest ones."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0006"
branch_labels = None
depends_on = None


def _activation_set() -> list[sa.Column[Any]]:
    """NULL: captured before these were stored."""
    types = {
        "dtype": sa.Text, "unit": sa.Text, "numerics": sa.Text, "sparse": sa.Boolean, "n_split": sa.Integer,
        "n_bytes": sa.BigInteger, "quantiles_json": sa.JSON,
    }  # fmt: skip
    return [sa.Column(name, kind(), nullable=True) for name, kind in types.items()]


def upgrade() -> None:
    """Add the columns."""
    op.add_column("exemplar", sa.Column("quantile", sa.Double(), nullable=True))
    for column in _activation_set():
        op.add_column("activation_set", column)


def downgrade() -> None:
    """Drop them, and the sampled contexts, which the older schema would take for highest ones."""
    op.execute("DELETE FROM exemplar WHERE quantile IS NOT NULL")
    op.drop_column("exemplar", "quantile")
    for column in _activation_set():
        op.drop_column("activation_set", column.name)
