"""`harness sql` reads: nothing that people or models write into a statement changes the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import pytest

from harness.errors import HarnessError, ResultsError, UsageError
from harness.store.readonly import ask
from harness.store.writer import Store


@pytest.fixture(scope="module")
def database(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "with space & #.db"
    with Store.open(path) as store:
        synthetic.fill(store)
    return path


def test_it_reads_views_tables_and_explains(database: Path) -> None:
    assert ask(database, "SELECT run_id, study FROM v_run").rows == [(1, "rank1-lora")]
    found = ask(database, "WITH x AS (SELECT 1 AS a UNION ALL SELECT 2) SELECT sum(a) AS s, 'b' AS s FROM x;")
    assert (found.columns, found.rows) == (("s", "s"), [(3, "b")])
    assert ask(database, "EXPLAIN QUERY PLAN SELECT * FROM v_feature WHERE run_id = 1").rows
    numbers = ask(
        database, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n"
    )
    assert [i for (i,) in numbers.rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM step",
        "UPDATE step SET name = 'x'",
        "INSERT INTO step (name) SELECT 'x'",
        "DROP TABLE step",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x AS SELECT 1",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM step",
        "WITH x AS (SELECT 1) DELETE FROM step WHERE id IN x",
        "INSERT INTO study_run (study) VALUES ('x') RETURNING id",
        "REPLACE INTO step (name) VALUES ('x')",
        "ALTER TABLE step ADD COLUMN x",
        "CREATE VIEW x AS SELECT 1",
        "CREATE TRIGGER x AFTER INSERT ON step BEGIN DELETE FROM step; END",
        "CREATE VIRTUAL TABLE x USING fts5(a)",
        "CREATE INDEX x ON step (name)",
        "DETACH main",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        "SAVEPOINT x",
        "COMMIT",
        "PRAGMA writable_schema = ON",
        "PRAGMA user_version = 7",
        "SELECT writefile('x', 'y')",
        "SELECT readfile('/etc/hostname')",
        "SELECT edit('x')",
        "SELECT fts3_tokenizer('simple')",
    ],
)
def test_it_cannot_write(database: Path, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    with pytest.raises(UsageError):
        ask(database, statement)
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_named(database: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such column: nope \(harness db schema"):
        ask(database, "SELECT nope FROM step")
    with pytest.raises(UsageError, match="nothing to run"):
        ask(database, "  ")
    with pytest.raises(UsageError, match="syntax error"):
        ask(database, "SELEC 1")
    with pytest.raises(ResultsError, match="no results at"):
        ask(tmp_path / "none.db", "SELECT 1")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("not a database at all, really")
    with pytest.raises(HarnessError):
        ask(tmp_path / "text.db", "SELECT * FROM step")


def test_it_reads_beside_a_writer(synthetic: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with Store.open(path) as store:
        store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        assert ask(path, "SELECT count(*) FROM study_run").rows == [(1,)]
        store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        assert ask(path, "SELECT count(*) FROM study_run").rows == [(2,)]
