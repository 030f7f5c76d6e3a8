"""Opens results.db: creates it, upgrades an older one, and refuses what it cannot read with what to do.

SQLite by default; any SQLAlchemy URL will do. alembic is imported only when a migration is due, so that opening an
up-to-date database costs milliseconds.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from harness.errors import HarnessError, ResultsError, StorageError, masked_argument, masked_url
from harness.records.base import Record

SCHEMA_VERSIONS = tuple(
    sorted(
        (path.name.split("_")[0] for path in (Path(__file__).parent / "migrations" / "versions").glob("v*.py")),
        key=lambda revision: int(revision[1:]),
    )
)
"""Revisions of `migrations/versions`, oldest first; the last one is what this code reads and writes."""

_UNRELEASED = re.compile(r"000[1-9]")
"""Revisions of schemas that no release had."""

BUSY_TIMEOUT_MS = 30_000
"""How long a statement waits for another process's write to end."""

_MIGRATING = 0x6D696772617465
"""`migrate` in ASCII: the number of PostgreSQL's advisory lock, so that two first runs do not both make the tables."""

_SQLITE_MAGIC = b"SQLite format 3\x00"


def database_url(target: str | Path = "results.db") -> str:
    """The SQLAlchemy URL of a path or URL; user info and query of a URL are replaced by ***."""
    url = _url(target)
    shown = url.render_as_string(hide_password=False)  # quotes what would end the password or query early
    return masked_url(shown) if url.username or url.password or url.query else shown


def open_database(target: str | Path = "results.db", *, create: bool = True) -> Engine:
    """Open a results database at this code's schema version.

    Args:
        target: path of a SQLite file, or a SQLAlchemy URL.
        create: make a file that does not exist; otherwise it is an error (reports do not make databases).

    Returns:
        An engine whose SQLite connections enforce foreign keys and write ahead (WAL).

    Raises:
        ResultsError: no such file or folder, not a database, another program's database, or one that is newer than
            this code.
        StorageError: the folder or file is not writable, or the disk is full.
    """
    url = _url(target)
    path = sqlite_path(url)
    if path is not None:
        _check_file(path, create=create)
    try:
        engine = create_engine(url, json_serializer=_dump, json_deserializer=from_json)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ResultsError(f"no driver for {url.drivername}: {error}; install one, e.g. pip install psycopg") from error
    if path is not None:
        _configure_sqlite(engine)
    try:
        with translate_db_errors(database_url(target)):
            _bring_up_to_date(engine, database_url(target))
    except BaseException:
        engine.dispose()
        raise
    return engine


def schema_version(engine: Engine) -> str | None:
    """The schema version of an open database, e.g. `v1`; None for an empty one."""
    with engine.connect() as connection:
        return _version(connection)


def schema_sql(records: Iterable[type[Record]] = ()) -> str:
    """All tables, indexes and views as SQL, as SQLite stores them; with those of plugins' `records`."""
    from harness.store.plugin_tables import bring_up_to_date

    with migrated(create_engine("sqlite://")) as connection:
        for record in records:
            bring_up_to_date(connection, record)
        rows = connection.execute(
            text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version' ORDER BY rowid")
        )
        return "\n\n".join(f"{sql};" for (sql,) in rows)


@contextmanager
def migrated(engine: Engine) -> Iterator[Connection]:
    """A connection to an empty database that has just been brought to this version's schema."""
    with engine.begin() as connection:
        _migrate(connection)
        yield connection


def url_of(target: str | Path) -> URL:
    """The SQLAlchemy URL of a path or URL, password included."""
    return _url(target)


def sqlite_path(url: URL | str) -> Path | None:
    """The file behind a SQLite URL; None for other databases and for memory."""
    url = make_url(url)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


@contextmanager
def translate_db_errors(name: str) -> Iterator[None]:
    """Turn a database driver's errors into HarnessErrors that say what to do about `name`.

    Raises:
        ResultsError: locked, damaged, or a constraint is violated.
        StorageError: disk full or not writable.
    """
    try:
        yield
    except DBAPIError as error:
        raise _explain(name, str(error.orig)) from error
    except sqlite3.Error as error:
        raise _explain(name, str(error)) from error


@contextmanager
def transaction(engine: Engine, name: str, *, durable: bool = False) -> Iterator[Connection]:
    """A transaction that writes (it holds the lock from its begin); its errors are HarnessErrors about `name`.

    With `durable`, a power cut after it loses nothing of it in SQLite either; a server's transactions always are.
    """
    with translate_db_errors(name), engine.execution_options(write=True, durable=durable).begin() as connection:
        yield connection


def now() -> str:
    """Now, as it is stored: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _explain(name: str, message: str) -> HarnessError:
    lowered = message.lower()
    if "disk is full" in lowered or "no space left" in lowered:
        return StorageError(f"no space left on the disk for {name}; what is stored is kept: free some space, run again")
    if "readonly" in lowered or "read-only" in lowered or "unable to open" in lowered or "permission denied" in lowered:
        return StorageError(f"{name} cannot be written ({message}); check the permissions of the file and its folder")
    if "disk i/o" in lowered:
        return StorageError(f"the disk failed while writing {name} ({message}); check the disk, then run again")
    if "locked" in lowered:
        return ResultsError(f"{name} is locked: another process is writing to it; wait for it to end, then run again")
    if "not a database" in lowered:
        return ResultsError(f"{name} is not a database; name another file with --db, or move this one away")
    if "malformed" in lowered:
        return ResultsError(f"{name} is damaged ({message}); restore a copy, or move it away and run again")
    return ResultsError(f"{name}: {message}")


def _url(target: str | Path) -> URL:
    given = str(target)
    if "://" not in given:
        return URL.create("sqlite", database=given)
    try:
        return make_url(given)
    except ArgumentError as error:
        raise ResultsError(f"not a database URL: {masked_argument(given)!r}; a path or e.g. postgresql+psycopg://host/name") from error


def _check_file(path: Path, *, create: bool) -> None:
    """Refuse what SQLite would refuse with an error code only."""
    folder = path.parent
    if path.is_dir():
        raise ResultsError(f"{path} is a folder; name a file in it, e.g. {path / 'results.db'}")
    if not folder.is_dir():
        raise ResultsError(f"{folder} is not a folder; create it, or choose another --db")
    if not path.exists():
        if not create:
            raise ResultsError(f"no results at {path}; `harness run` makes them, --db names another file")
        if not os.access(folder, os.W_OK):
            raise StorageError(f"{folder} is not writable; choose another --db")
        return
    with path.open("rb") as stream:
        head = stream.read(len(_SQLITE_MAGIC))
    if head and head != _SQLITE_MAGIC:
        raise ResultsError(f"{path} is not a database; name another file with --db, or move this one away")


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below, not the driver's: DDL is then transactional
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys=ON")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # Writers lock at once: a reader that turns writer later could not be made to wait.
        options = connection.get_execution_options()
        if options.get("migrating", False):
            # A migration may make a table anew; dropping the old one would delete all rows that refer to it.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        write = options.get("write", False)
        if write:  # with WAL, NORMAL survives kill -9, and a power cut loses the last commits; FULL syncs each commit
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('durable') else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _bring_up_to_date(engine: Engine, name: str) -> None:
    with engine.connect() as connection:
        version = _version(connection)
        if version is None and inspect(connection).get_table_names():
            raise ResultsError(f"{name} is another program's database; name another file with --db")
    if version is not None and _UNRELEASED.fullmatch(version):
        raise ResultsError(
            f"{name} was written by a version of the harness before its first release (schema {version}), which this "
            "one does not read: move the file away, or name another one with --db, and run the study again"
        )
    if version is not None and version not in SCHEMA_VERSIONS:
        raise ResultsError(
            f"{name} has schema {version}, newer than this version of the harness reads ({SCHEMA_VERSIONS[-1]}); "
            "upgrade it: pip install -U interp-harness"
        )
    if version != SCHEMA_VERSIONS[-1]:
        with engine.execution_options(write=True, migrating=True).begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's writers lock at BEGIN
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATING})
            if _version(connection) != SCHEMA_VERSIONS[-1]:  # another process may have been first
                _migrate(connection)
        engine.dispose()  # its connection does not enforce foreign keys


def _version(connection: Connection) -> str | None:
    if "alembic_version" not in inspect(connection).get_table_names():
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(connection: Connection) -> None:
    """Run the migrations that are missing, in the connection's transaction."""
    from alembic import command

    from harness.store.views import create_views, drop_views

    of_plugins = drop_views(connection)
    command.upgrade(alembic_config(connection), "head")
    create_views(connection, of_plugins)


def alembic_config(connection: Connection) -> Any:
    """Alembic's configuration for a connection; needs no alembic.ini."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "harness.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


__all__ = [
    "SCHEMA_VERSIONS",
    "alembic_config",
    "database_url",
    "migrated",
    "now",
    "open_database",
    "schema_sql",
    "schema_version",
    "sqlite_path",
    "transaction",
    "translate_db_errors",
    "url_of",
]
