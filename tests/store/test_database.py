from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from harness.errors import ResultsError, StorageError
from harness.store.database import (
    SCHEMA_VERSIONS,
    alembic_config,
    database_url,
    open_database,
    schema_sql,
    schema_version,
    sqlite_path,
    translate_db_errors,
)
from harness.store.views import drop_views
from harness.store.writer import Store


def test_migrations_make_exactly_the_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        command.check(alembic_config(connection))
        revisions = ScriptDirectory.from_config(alembic_config(connection)).walk_revisions()
        assert tuple(r.revision for r in revisions)[::-1] == SCHEMA_VERSIONS


def test_downgrade_leaves_nothing(store: Store) -> None:
    with store.engine.execution_options(write=True).begin() as connection:
        drop_views(connection)
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        assert inspect(connection).get_view_names() == []


def test_new_file_has_wal_foreign_keys_and_views(store: Store) -> None:
    with store.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
        views = inspect(connection).get_view_names()
        for view in views:
            connection.execute(text(f"SELECT * FROM {view}")).all()
        assert {"v_ablation", "v_dictionary", "v_evaluation", "v_feature", "v_latent"} <= set(views)
    assert schema_version(store.engine) == SCHEMA_VERSIONS[-1]


def test_a_migration_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: object) -> None:
        from harness.store import database

        connection.exec_driver_sql("CREATE TABLE half (a INTEGER)")  # type: ignore[attr-defined]
        raise database.ResultsError("killed half way")

    monkeypatch.setattr("harness.store.database._migrate", broken)
    with pytest.raises(ResultsError, match="half way"):
        open_database(tmp_path / "r.db")
    with sqlite3.connect(tmp_path / "r.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_opening_an_up_to_date_file_is_fast_and_leaves_alembic_alone(store: Store) -> None:
    code = (
        "import sys, harness.store.writer as s\n"
        f"s.Store.open({str(store.path)!r}).close()\n"
        "print([m for m in ('alembic', 'torch', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    times = []
    for _ in range(5):
        began = time.perf_counter()
        open_database(store.path or "").dispose()
        times.append(time.perf_counter() - began)
    assert min(times) < 0.06


def test_a_newer_database_is_refused(store: Store) -> None:
    with store.engine.execution_options(write=True).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v99'"))
    with pytest.raises(ResultsError, match=r"schema v99, newer.*pip install -U interp-harness"):
        open_database(store.path or "")


def test_what_is_not_a_database_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("dear diary, this is not a database at all")
    with pytest.raises(ResultsError, match="is not a database"):
        open_database(other)
    assert other.read_text().startswith("dear diary")
    short = tmp_path / "short"
    short.write_text("x")
    with pytest.raises(ResultsError, match="is not a database"):
        open_database(short)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photo (id INTEGER)")
    with pytest.raises(ResultsError, match="another program's database"):
        open_database(path)


def test_a_damaged_database_is_a_sentence(store: Store) -> None:
    path = store.path
    assert path is not None
    store.close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8000)
    with pytest.raises(ResultsError, match=r"damaged|not a database"):
        open_database(path)


def test_places_that_cannot_hold_one(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="is not a folder; create it"):
        open_database(tmp_path / "missing" / "results.db")
    with pytest.raises(ResultsError, match="is a folder"):
        open_database(tmp_path)
    with pytest.raises(ResultsError, match="no results at"):
        open_database(tmp_path / "results.db", create=False)
    assert not (tmp_path / "results.db").exists()


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.store.database.os.access", lambda *_: False)
    with pytest.raises(StorageError, match="not writable"):
        open_database(tmp_path / "results.db")


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "results.db").touch()
    engine = open_database(tmp_path / "results.db")
    assert schema_version(engine) == SCHEMA_VERSIONS[-1]
    engine.dispose()


def test_urls() -> None:
    assert database_url() == "sqlite:///results.db"
    assert sqlite_path(database_url("a b/100%.db")) == Path("a b/100%.db")
    assert sqlite_path("sqlite:///a.db") == Path("a.db")
    assert database_url("postgresql+psycopg://me:secret@host/name") == "postgresql+psycopg://***@host/name"
    with pytest.raises(ResultsError, match=r"no driver|not a database URL"):
        open_database("nonsense://x")
    with pytest.raises(ResultsError, match="not a database URL"):
        open_database("://")


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        ("database or disk is full", StorageError, "free some space"),
        ("attempt to write a readonly database", StorageError, "permissions"),
        ("disk I/O error", StorageError, "check the disk"),
        ("database is locked", ResultsError, "another process"),
        ("something else", ResultsError, "something else"),
    ],
)
def test_driver_errors_become_sentences(message: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says), translate_db_errors("results.db"):
        raise sqlite3.OperationalError(message)


def test_schema_is_printable() -> None:
    sql = schema_sql()
    assert "CREATE TABLE sample" in sql
    assert "CREATE VIEW v_recovery" not in sql
    sqlite3.connect(":memory:").executescript(sql)


@pytest.mark.parametrize("version", ["0001", "0009"])
def test_a_database_from_before_the_first_release_is_refused_with_what_to_do(store: Store, version: str) -> None:
    with store.engine.execution_options(write=True).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
        before = connection.execute(text("SELECT sql FROM sqlite_master")).scalars().all()
    with pytest.raises(ResultsError, match=rf"before its first release \(schema {version}\).*move the file away"):
        open_database(store.path or "")
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT sql FROM sqlite_master")).scalars().all() == before


def test_a_database_in_a_folder_that_cannot_be_written_is_read_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's answer is replaced; with WAL, SQLite would make two files."""
    path = tmp_path / "results.db"
    Store.open(path).close()
    monkeypatch.setattr("harness.store.database.os.access", lambda *_: False)
    engine = open_database(path, create=False)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM study_run")).scalar() == 0
        with pytest.raises(DBAPIError, match="readonly"):
            connection.execute(text("DELETE FROM study_run"))
    engine.dispose()
    assert [p.name for p in tmp_path.iterdir()] == ["results.db"]
