"""How each answer ended: finished or cut, how long, looping or not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; answers of older runs have no finish and no length."""
    op.add_column("sample", sa.Column("finish", sa.Text(), nullable=True))
    op.add_column("sample", sa.Column("n_tokens", sa.Integer(), nullable=True))
    op.add_column("sample", sa.Column("loops", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop the columns."""
    for name in ("loops", "n_tokens", "finish"):
        op.drop_column("sample", name)
