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
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 6}
"""Of libpq's connections, in seconds: a firewall closes a connection that says nothing, and a run's lock is one."""


@dataclass(frozen=True)
class Place:
    """A file or folder that a run writes to, as it was when it was opened.

    Attributes:
        path: absolute, symbolic links as given.
        identity: its device and inode.
    """

    path: Path
    identity: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Place:
        """The place of a path that exists."""
        there = path.stat()
        return cls(path.absolute(), (there.st_dev, there.st_ino))

    def check(self) -> None:
        """Make sure that the path still leads there: what is written to a deleted file is lost without an error.

        Raises:
            ResultsError: it is gone, or another one lies there.
        """
        try:
            there = self.path.stat()
        except OSError as error:
            raise ResultsError(
                f"{self.path} was deleted or moved away during the run ({error.strerror}); put it back and run again, "
                "or run again to begin anew"
            ) from error
        if (there.st_dev, there.st_ino) != self.identity:
            raise ResultsError(
                f"{self.path} was replaced by another one during the run; what was written since is not in it: "
                "run again"
            )


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
    only_read = path is not None and path.exists() and not all(os.access(p, os.W_OK) for p in (path, path.parent))
    libpq = url.get_backend_name() == "postgresql" and url.get_driver_name() in ("psycopg", "psycopg2")
    options: dict[str, Any] = {"connect_args": _KEEPALIVES} if libpq else {}
    if path is not None and only_read:
        options["creator"] = partial(connect_read_only, path)
    try:
        engine = create_engine(url, json_serializer=_dump, json_deserializer=from_json, **options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ResultsError(f"no driver for {url.drivername}: {error}; install one, e.g. pip install psycopg") from error
    if path is not None:
        _configure_sqlite(engine, only_read=only_read)
    try:
        with translate_db_errors(database_url(target)):
            _bring_up_to_date(engine, database_url(target), path, only_read=only_read)
    except BaseException:
        engine.dispose()
        raise
    if path is not None:
        engine.update_execution_options(places=(Place.of(path),))
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

    Raises:
        ResultsError: a `Place` of the engine is gone, or the run's lock on a server is (then nothing is written).
    """
    check_places(engine)
    with translate_db_errors(name), engine.execution_options(write=True, durable=durable).begin() as connection:
        if (check := engine.get_execution_options().get("check_lock")) is not None:
            check(connection)
        yield connection
    check_places(engine)


def check_places(engine: Engine) -> None:
    """Make sure that the files and folders that a run writes to are where they were.

    Raises:
        ResultsError: one was deleted or replaced.
    """
    for place in engine.get_execution_options().get("places", ()):
        place.check()


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
        raise ResultsError(
            f"not a database URL: {masked_argument(given)!r}; a path or e.g. postgresql+psycopg://host/name"
        ) from error


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


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, no file beside the database either.

    Where no writer is or was at work (there is no -shm file and nothing in the -wal), the file is read as it lies there
    (`immutable`): SQLite would make both files, and cannot on read-only media.

    Raises:
        ResultsError: the last writes lie in a -wal file that cannot be read here.
    """
    resolved = path.resolve()
    wal, shm = (resolved.with_name(resolved.name + suffix) for suffix in ("-wal", "-shm"))
    in_use = shm.exists() or (wal.exists() and wal.stat().st_size > 0)
    uri = f"file:{quote(str(resolved))}?mode=ro{'' if in_use else '&immutable=1'}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").close()
    except sqlite3.OperationalError as error:
        connection.close()
        if in_use and "unable to open" in str(error):
            raise ResultsError(
                f"{path}: its last writes lie in {wal.name}, which cannot be read where nothing can be written; copy "
                "both files to a folder of your own and read them there"
            ) from error
        raise
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def checkpoint(engine: Engine) -> None:
    """Bring what lies in SQLite's -wal file into the database, as far as no reader is in the way."""
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()  # SQLAlchemy's own would begin a transaction
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        finally:
            connection.close()


def _configure_sqlite(engine: Engine, *, only_read: bool) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below, not the driver's: DDL is then transactional
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys=ON")
        if not only_read and cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
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


def _bring_up_to_date(engine: Engine, name: str, path: Path | None, *, only_read: bool) -> None:
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
    copy = path and path.with_name(f"{path.name}.before-{SCHEMA_VERSIONS[-1]}")
    if version != SCHEMA_VERSIONS[-1]:
        if only_read:
            raise ResultsError(
                f"{name} has schema {version}, older than this version of the harness reads, and cannot be written: "
                "copy it to a folder of your own, where `harness db upgrade` can bring it up to date"
            )
        with engine.execution_options(write=True, migrating=True).begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's writers lock at BEGIN
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATING})
            if _version(connection) != SCHEMA_VERSIONS[-1]:  # another process may have been first
                if path and copy and version is not None:
                    _copy(path, copy)
                _migrate(connection)
        engine.dispose()  # its connection does not enforce foreign keys
    if copy and not only_read:
        copy.unlink(missing_ok=True)  # also where an upgrade was killed when it was done


def _copy(path: Path, copy: Path) -> None:
    """Copy a database with what is committed in it, whole or not at all."""
    part = copy.with_name(f"{copy.name}.part")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as destination:
            source.backup(destination)
            destination.execute("PRAGMA journal_mode=DELETE").close()  # one file, without a -wal
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


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
    "Place",
    "alembic_config",
    "check_places",
    "checkpoint",
    "connect_read_only",
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
