"""One run writes to a database at a time; a second one waits, and then finds the first one's steps done.

SQLite: a lock file beside the database. PostgreSQL: an advisory lock of the session. The system releases both when a
process dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text

from harness.store.database import sqlite_path

_LOCK = 0x6861726E657373
"""`harness` in ASCII: the number of the advisory lock."""


@contextmanager
def run_lock(engine: Engine, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the database's lock inside the block; `waiting` is called with a message if another run holds it."""
    path = sqlite_path(engine.url)
    if path is not None:
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(f"another run is writing to {path}; waiting for it to end")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    elif engine.dialect.name == "postgresql":
        # A connection outside of transactions: an idle transaction of hours would keep old rows alive.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": _LOCK}).scalar():
                waiting("another run is writing to the database; waiting for it to end")
                connection.execute(text("SELECT pg_advisory_lock(:n)"), {"n": _LOCK})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": _LOCK})
    else:
        yield
