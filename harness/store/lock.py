"""One run at a time writes to a database and to an artefact folder; a second one waits, then finds the first's steps.

SQLite and the folder: a lock file, beside the file and in the folder. PostgreSQL: an advisory lock of the session. The
system releases them when a process dies. PostgreSQL also releases its lock when the connection is lost while the run
lives: whoever takes the lock therefore stores a token, and each transaction that writes checks that it is still there.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from harness.errors import ResultsError
from harness.store.database import Place, now, sqlite_path, transaction, translate_db_errors
from harness.store.schema import RunLock

_LOCK = 0x6861726E657373
"""`harness` in ASCII: the number of the advisory lock."""
_FOLDERS_LOCK = ".lock"
"""Name of the lock file in the artefact folder."""

Say = Callable[[str], None]


def lock_file(path: Path) -> Path:
    """The lock file of a SQLite database: one, by whatever links and spelling the database is reached."""
    resolved = path.resolve()
    return resolved.with_name(f"{resolved.name}.lock")


@contextmanager
def run_lock(engine: Engine, name: str, artifacts: Path, waiting: Say) -> Iterator[Engine]:
    """Hold the locks of a database and of an artefact folder, in this order, so that no two runs wait for each other.

    Args:
        engine: of the database.
        name: the database's, for errors.
        artifacts: the folder; it is made where it is not there.
        waiting: called with a message where another run holds a lock.

    Returns:
        The engine that the run writes with: its transactions (`transaction`) end with a sentence once the lock is lost,
        or the folder or the database is gone.

    Raises:
        ResultsError: the lock was lost.
    """
    with ExitStack() as stack:
        path = sqlite_path(engine.url)
        if path is not None:
            stack.enter_context(_file_lock(lock_file(path), f"writing to {path}", waiting))
        elif engine.dialect.name == "postgresql":
            engine = stack.enter_context(_server_lock(engine, name, waiting))
        artifacts.mkdir(parents=True, exist_ok=True)
        if os.access(artifacts, os.W_OK):  # else nobody writes to it
            in_folder = artifacts.resolve() / _FOLDERS_LOCK
            stack.enter_context(_file_lock(in_folder, f"writing to the folder {artifacts}", waiting))
        places = engine.get_execution_options().get("places", ())
        yield engine.execution_options(places=(*places, Place.of(artifacts)))


@contextmanager
def _file_lock(path: Path, doing: str, waiting: Say) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting(f"another run is {doing}; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _server_lock(engine: Engine, name: str, waiting: Say) -> Iterator[Engine]:
    # A connection outside of transactions: an idle transaction of hours would keep old rows alive.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with translate_db_errors(name):
            if not connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": _LOCK}).scalar():
                waiting("another run is writing to the database; waiting for it to end")
                connection.execute(text("SELECT pg_advisory_lock(:n)"), {"n": _LOCK})
        token = _take(engine, name)

        def check_lock(writing: Connection) -> None:
            # FOR SHARE: who takes the lock over waits for this transaction to end, or this one sees the new token.
            held = select(RunLock.token).where(RunLock.id == 1).with_for_update(read=True)
            if writing.execute(held).scalar() != token:
                raise ResultsError(
                    f"this run lost its lock on {name} (its connection was closed) and another run took it; nothing "
                    "was written since: run again, it goes on from what is stored"
                )

        try:
            yield engine.execution_options(check_lock=check_lock)
        finally:
            with suppress(DBAPIError):  # the connection is lost, and the lock with it
                connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": _LOCK})


def _take(engine: Engine, name: str) -> str:
    """Store a new token as the one that writers must have; returns it."""
    values = {"token": uuid.uuid4().hex, "taken_at": now()}
    with transaction(engine, name) as connection:
        if not connection.execute(update(RunLock).where(RunLock.id == 1).values(**values)).rowcount:
            connection.execute(insert(RunLock).values(id=1, **values))
    return values["token"]
