"""The first schema, as `v1_initial.sql` has it."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "v1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    if op.get_bind().dialect.name == "postgresql":  # which names two types otherwise
        script = script.replace(" id INTEGER NOT NULL", " id SERIAL NOT NULL").replace(" DOUBLE", " DOUBLE PRECISION")
    for statement in script.split(";\n"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Drop everything."""
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    for line in reversed(script.splitlines()):
        if line.startswith("CREATE TABLE"):
            op.drop_table(line.split()[2])
