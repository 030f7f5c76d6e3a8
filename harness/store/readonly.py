"""Runs SQL that people type on a connection that cannot write.

SQLite: mode=ro (immutable where nobody writes), query_only and an authorizer.
PostgreSQL: a read-only transaction; the statement is the query of a cursor, which takes SELECT, VALUES and WITH and
nothing else; the extended protocol, which takes one statement; and no function that PostgreSQL itself declares
volatile, because those read and write files, take locks, change settings and run other statements.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ResultsError, UsageError

MOST_ROWS = 1_000_000
"""Rows fetched at most; more are cut, and the answer says so."""

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}


@dataclass(frozen=True)
class Answer:
    """What a statement returned.

    Attributes:
        columns: their names, as given; names may repeat.
        rows: values as SQLite has them: None, int, float, str or bytes.
        cut: whether there were more than `MOST_ROWS`.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    cut: bool


def ask(target: str | Path, statement: str) -> Answer:
    """Run one statement that only reads.

    Args:
        target: path of a SQLite file, or a SQLAlchemy URL. It is neither created nor migrated.
        statement: one SELECT (or WITH ... SELECT, VALUES, EXPLAIN).

    Raises:
        UsageError: empty, several statements, a fault of SQL, or something that would write.
        ResultsError: no such database, or it cannot be read.
    """
    if not statement.strip():
        raise UsageError('nothing to run; for example: harness sql "SELECT * FROM v_run"')
    from harness.store.database import sqlite_path, url_of

    path = sqlite_path(url_of(target))
    return _ask_sqlite(path, statement) if path is not None else _ask_server(target, statement)


def _ask_sqlite(path: Path, statement: str) -> Answer:
    if not path.is_file():
        raise ResultsError(f"no results at {path}; `harness run` makes them, --db names another file")
    from harness.store.database import connect_read_only

    with _translate_errors(path):
        with closing(connect_read_only(path)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.set_authorizer(_only_reads)
            cursor = connection.execute(statement)
            return _fetched(cursor, [d[0] for d in cursor.description or ()])


def _only_reads(action: int, first: str | None, second: str | None, *_: Any) -> int:
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


_HARMLESS = frozenset({"random", "clock_timestamp", "timeofday", "gen_random_uuid", "random_normal", "setseed"})
"""Volatile functions of PostgreSQL that touch nothing outside of their transaction."""
_CLOSED = frozenset(
    {"pg_authid", "pg_shadow", "pg_user_mapping", "pg_hba_file_rules", "pg_ident_file_mappings", "pg_file_settings",
     "pg_largeobject", "pg_stat_ssl"}
)  # fmt: skip
"""Catalogues with secrets or with the server's files."""
_IDENTIFIER = re.compile(r'"((?:[^"]|"")*)"|([^\W\d][\w$]*)')


def _ask_server(target: str | Path, statement: str) -> Answer:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError

    engine = create_engine(str(target), connect_args={"options": "-c default_transaction_read_only=on"})
    try:
        if engine.dialect.name != "postgresql" or engine.dialect.driver != "psycopg":
            raise UsageError(
                f"harness sql reads SQLite files and PostgreSQL (postgresql+psycopg://...), not {engine.dialect.name}"
            )
        with engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")
            return _ask_postgresql(connection.connection.driver_connection, statement)
    except DBAPIError as error:
        raise UsageError(f"the database refused it: {error.orig}") from error
    finally:
        engine.dispose()


def _ask_postgresql(connection: Any, statement: str) -> Answer:
    """Run one statement on a psycopg connection and roll back."""
    from psycopg import Error

    try:
        with connection.cursor() as cursor:
            _refuse_volatile(cursor, statement)
            # prepare=True: the extended protocol, which refuses several statements
            cursor.execute(f"DECLARE harness_sql NO SCROLL CURSOR FOR {statement}", prepare=True)
            cursor.execute(f"FETCH FORWARD {MOST_ROWS + 1} FROM harness_sql")
            return _fetched(cursor, [column.name for column in cursor.description or ()])
    except Error as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "multiple commands" in said:
            raise UsageError("one statement at a time") from error
        raise UsageError(f"harness sql only reads, by SELECT, VALUES or WITH; PostgreSQL says: {said}") from error
    finally:
        connection.rollback()


def _refuse_volatile(cursor: Any, statement: str) -> None:
    """Refuse every name in the statement that is also that of a volatile function, wherever it stands in it.

    Names are looked for in the whole text, comments and strings included: a name too many is refused rather than one
    too few.

    Raises:
        UsageError: names one of them.
    """
    if re.search(r"\bu&\s*\"", statement, re.IGNORECASE):
        raise UsageError('harness sql takes no U&"..." names; write them plainly')
    names = {quoted.replace('""', '"') or plain.lower() for quoted, plain in _IDENTIFIER.findall(statement)}
    cursor.execute(
        "SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE provolatile = 'v' AND proname = ANY(%s)", [sorted(names)]
    )
    refused = sorted(({name for (name,) in cursor.fetchall()} - _HARMLESS) | (names & _CLOSED))
    if refused:
        raise UsageError(
            f"harness sql only reads: {refused[0]} can change or read what is outside of the tables; for that use psql"
        )


def _fetched(cursor: Any, columns: Sequence[str]) -> Answer:
    if not columns:
        raise UsageError("this statement returns no rows; harness sql only reads")
    rows = [tuple(row) for row in cursor.fetchmany(MOST_ROWS + 1)]
    return Answer(tuple(columns), rows[:MOST_ROWS], len(rows) > MOST_ROWS)


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as ours: a UsageError for a fault of the statement, a ResultsError for one of the file."""
    try:
        yield
    except sqlite3.Error as error:
        message = str(error)
        lowered = message.lower()
        if "not authorized" in lowered or "readonly" in lowered or "prohibited" in lowered:
            raise UsageError(f"harness sql only reads ({message}); nothing was changed") from error
        if "one statement at a time" in lowered:
            raise UsageError("one statement at a time") from error
        if "not a database" in lowered or "malformed" in lowered or "unable to open" in lowered or "locked" in lowered:
            raise ResultsError(f"{path}: {message}") from error
        tables = " (harness db schema lists tables and views)" if "no such" in lowered else ""
        raise UsageError(f"SQL: {message}{tables}") from error
