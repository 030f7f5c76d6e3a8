"""Run by alembic: migrates the connection that `harness.store.database` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from harness.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    include_name=lambda name, kind, _: kind != "table" or name in METADATA.tables,  # plugins' tables are not ours
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
)
context.run_migrations()
