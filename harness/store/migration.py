"""Write the next migration: `make migration m="what it adds"`. It compares the records with the migrated schema."""

from __future__ import annotations

import sys

from alembic import command
from sqlalchemy import create_engine

from harness.store.database import SCHEMA_VERSIONS, alembic_config, migrated


def main(message: str) -> None:
    """Write `migrations/versions/vN_MESSAGE.py`; read it before it is committed."""
    with migrated(create_engine("sqlite://")) as connection:
        config = alembic_config(connection)
        config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        command.revision(config, message, autogenerate=True, rev_id=f"v{len(SCHEMA_VERSIONS) + 1}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
