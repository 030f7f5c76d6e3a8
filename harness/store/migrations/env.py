"""Run by alembic: migrates the connection that `harness.store.database` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from harness.store.tables import Base
from harness.store.tables_judgements import RECORDS

assert RECORDS  # importing them puts them into the metadata
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
)
context.run_migrations()
