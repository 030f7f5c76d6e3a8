"""The same study on PostgreSQL: migrations, a whole run, reports, read-only SQL, two runs at once. A real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import create_engine, inspect, text

from harness import Estimate, Record
from harness.errors import ResultsError, UsageError
from harness.records import AblationScore
from harness.store import schema
from harness.store.database import SCHEMA_VERSIONS, alembic_config, schema_version
from harness.store.read import records_of
from harness.store.readonly import ask
from harness.store.views import drop_views
from harness.store.writer import Store
from tests.store import synthetic

SERVER = os.environ.get("HARNESS_POSTGRES")
pytestmark = [
    pytest.mark.skipif(not SERVER, reason="needs a PostgreSQL server: make test-postgres"),
    pytest.mark.timeout(600),
]
RUN = ["run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu"]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of its own on the server."""
    name = f"harness_{abs(hash(request.node.name)) % 10**9}"
    admin = create_engine(f"{SERVER}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield f"{SERVER}/{name}"
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    env = {**clean, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "harness.cli", *args]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def harness(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    running = start(folder, *args)
    out, err = running.communicate(timeout=500)
    return subprocess.CompletedProcess(args, running.returncode, out, err)


def rows(folder: Path, url: str, section: str) -> list[dict[str, Any]]:
    done = harness(folder, "report", section, "--db", url, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_migrations_make_exactly_the_tables_and_can_be_undone(url: str) -> None:
    with Store.open(url) as store:
        assert schema_version(store.engine) == SCHEMA_VERSIONS[-1]
        with store.engine.connect() as connection:
            command.check(alembic_config(connection))
            views = inspect(connection).get_view_names()
            for view in views:
                connection.execute(text(f"SELECT * FROM {view}")).all()
            assert len(views) >= 4
        with store.engine.begin() as connection:
            drop_views(connection)
            command.downgrade(alembic_config(connection), "base")
            assert inspect(connection).get_table_names() == ["alembic_version"]


class Reading(Record):
    """The first version of a plugin's record."""

    item: str
    """Name within the step."""
    words: tuple[str, ...] = ()
    """Words."""


class NextReading(Reading):
    """The next version."""

    TABLE = "reading"

    sway_nats: Estimate | None = None
    """How far it sways."""
    mood: str = "calm: it's fine"
    """Mood."""


def test_a_plugins_record_gets_its_table_and_later_its_column(url: str) -> None:
    with Store.open(url) as store:
        run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        step, _ = store.begin_step(run, 0, **synthetic.step_values("ablate/x"))  # type: ignore[arg-type]
        store.accept([Reading])
        store.write(step, Reading(item="old", words=("so",)))
        store.accept([NextReading])
        made = NextReading(item="new", sway_nats=Estimate(1.0, 0.5, float("inf")), mood="x")
        store.write(step, made)
        assert store.records(step, NextReading) == [NextReading(item="old", words=("so",)), made]
        with store.engine.connect() as connection:
            rows = connection.execute(text("SELECT item, mood, sway_ci_high FROM v_reading ORDER BY item")).all()
        assert rows == [("new", "x", float("inf")), ("old", "calm: it's fine", None)]


def test_every_record_comes_back_as_from_sqlite(url: str, tmp_path: Path) -> None:
    with Store.open(url) as server, Store.open(tmp_path / "r.db") as local:
        runs = synthetic.fill(server), synthetic.fill(local)
        for store, run in zip((server, local), runs, strict=True):
            compared, _ = store.begin_step(run, 100, **synthetic.step_values("compare/adapters"))  # type: ignore[arg-type]
            store.write_many(compared, synthetic.adapters())  # a run of one adapter has none
            store.finish_step(compared, status="done", wall_s=1.0, output={})
        for table in schema.all_tables():
            if "item" in table.record.model_fields:
                with server.engine.connect() as a, local.engine.connect() as b:
                    theirs, ours = (records_of(c, table.record, run_id=r) for c, r in zip((a, b), runs, strict=True))
                assert theirs == ours != [], table.name


def test_two_runs_at_once_share_the_work_and_report_what_sqlite_reports(url: str, tmp_path: Path) -> None:
    first = start(tmp_path, *RUN, "--db", url)
    second = start(tmp_path, *RUN, "--db", url)
    said = [running.communicate(timeout=550)[1] for running in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert sum("waiting for it to end" in text for text in said) == 1
    assert sum("0 reused" in text for text in said) == 1, "the other one found every step done"

    assert harness(tmp_path, *RUN, "--db", "local.db", "--artifacts", "again").returncode == 0
    for section in ("recovery", "components", "dictionaries", "features", "groups"):
        ours, theirs = rows(tmp_path, url, section), rows(tmp_path, "local.db", section)
        volatile = {"run_id", "step_id", "wall_s"}
        kept = [[{k: v for k, v in r.items() if k not in volatile} for r in found] for found in (ours, theirs)]
        assert kept[0] == kept[1], section
    for asked_for in ((), ("--all",)):
        done = harness(tmp_path, "report", *asked_for, "--db", url)
        assert done.returncode == 0, done.stderr
    asked = harness(tmp_path, "sql", "SELECT count(*) AS n FROM sample", "--db", url, "--format", "json")
    assert json.loads(asked.stdout)[0]["n"] > 0
    refused = harness(tmp_path, "sql", "DELETE FROM sample", "--db", url)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr


HOSTILE = [
    "DELETE FROM sample",
    "COMMIT; CREATE TABLE evil(a int); SELECT 1",
    "ROLLBACK; CREATE TABLE evil(a int); SELECT 1",
    "COMMIT; COMMIT; DROP TABLE step CASCADE; SELECT 1",
    "SET TRANSACTION READ WRITE; DELETE FROM sample",
    "SELECT 1; DELETE FROM sample",
    "SELECT 1 INTO evil",
    "CREATE TABLE evil AS SELECT 1",
    "WITH gone AS (DELETE FROM sample RETURNING 1) SELECT * FROM gone",
    "WITH made AS (INSERT INTO study_run (study) VALUES ('x') RETURNING 1) SELECT * FROM made",
    "SELECT * FROM step FOR UPDATE",
    "COPY (SELECT 1) TO PROGRAM 'touch {marker}'",
    "COPY (SELECT 1) TO '{marker}'",
    "COPY study_run FROM '/etc/hostname'",
    "DO $$ BEGIN EXECUTE 'CREATE TABLE evil(a int)'; END $$",
    "CALL evil()",
    "SET default_transaction_read_only = off",
    "RESET ALL",
    "SHOW data_directory",
    "EXPLAIN ANALYZE DELETE FROM sample",
    "PREPARE x AS DELETE FROM sample",
    "EXECUTE x",
    "LOCK TABLE step",
    "VACUUM",
    "LISTEN x",
    "NOTIFY x",
    "CREATE EXTENSION dblink",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "CREATE ROLE evil SUPERUSER",
    "SELECT lo_import('/etc/hostname')",
    "SELECT LO_IMPORT('/etc/hostname')",
    "SELECT \"lo_import\"('/etc/hostname')",
    "SELECT pg_catalog.\"lo_import\" ('/etc/hostname')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_export(1, '{marker}')",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT pg_read_binary_file('/etc/hostname')",
    "SELECT pg_ls_dir('/')",
    "SELECT * FROM pg_stat_file('/etc/hostname')",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT pg_advisory_lock(29386519126209395)",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_notify('x', 'y')",
    "SELECT nextval('study_run_id_seq')",
    "SELECT setval('study_run_id_seq', 1)",
    "SELECT query_to_xml('DELETE FROM sample', true, true, '')",
    "SELECT * FROM ts_stat('DELETE FROM sample')",
    "SELECT ts_rewrite('a'::tsquery, 'DELETE FROM sample')",
    "SELECT pg_logical_emit_message(true, 'x', 'y')",
    "SELECT pg_create_restore_point('x')",
    "SELECT pg_sleep(60)",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT U&\"lo\\005fimport\"('/etc/hostname')",
    "SELECT 1 UNION SELECT lo_create(0)::int",
    "VALUES (lo_create(0))",
    "SELECT (SELECT lo_create(0)) FROM study_run",
]


def _state(url: str) -> list[Any]:
    """What a hostile statement could have changed in the server."""
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        counts = [
            (name, connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar()) for name in sorted(tables)
        ]
        others = [
            connection.execute(text(question)).all()
            for question in (
                "SELECT count(*) FROM pg_largeobject_metadata",
                "SELECT rolname FROM pg_roles ORDER BY 1",
                "SELECT extname FROM pg_extension ORDER BY 1",
                "SELECT last_value, is_called FROM study_run_id_seq",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
                "SHOW work_mem",
            )
        ]
    engine.dispose()
    return [counts, others]


def test_sql_on_a_server_cannot_write_though_the_role_is_a_superuser(url: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)  # the server's own user could write the marker
    marker = tmp_path / "marker"
    with Store.open(url):
        pass
    before = _state(url)
    for statement in HOSTILE:
        with pytest.raises(UsageError):
            ask(url, statement.replace("{marker}", str(marker)))
    assert _state(url) == before
    assert not marker.exists()
    # What reads still reads: views, WITH, strings that look like calls, a semicolon at the end, every column's name.
    assert ask(url, "WITH x AS (SELECT 1 AS a) SELECT a, '%s :name; --' AS b FROM x;").rows == [(1, "%s :name; --")]
    assert ask(url, "VALUES (1), (2)").rows == [(1,), (2,)]
    engine = create_engine(url)
    relations = [*inspect(engine).get_table_names(), *inspect(engine).get_view_names()]
    columns = {name: [c["name"] for c in inspect(engine).get_columns(name)] for name in relations}
    engine.dispose()
    for relation, names in columns.items():
        assert ask(
            url, f'SELECT {", ".join(f"{name!r}".replace(chr(39), chr(34)) for name in names)} FROM "{relation}"'
        )


def test_a_role_that_may_only_select_reads_every_view(url: str) -> None:
    """The role of docs/schema.md."""
    with Store.open(url) as store, store.engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        for line in (
            "CREATE ROLE reader LOGIN",
            "GRANT USAGE ON SCHEMA public TO reader",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader",
        ):
            connection.execute(text(line))
    assert ask(url.replace("harness@", "reader@"), "SELECT count(*) FROM v_run").rows == [(0,)]
    with Store.open(url) as store, store.engine.begin() as connection:
        connection.execute(text("DROP OWNED BY reader"))
        connection.execute(text("DROP ROLE reader"))


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = harness(tmp_path, "report", "--db", "postgresql+psycopg://harness@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "127.0.0.1" in done.stderr


def test_a_run_that_lost_its_lock_writes_nothing_more(url: str, tmp_path: Path) -> None:
    """The server (or a firewall) closes the lock's connection; another run takes over, the first one ends."""
    takeover: list[str] = []
    with Store.open(url) as first, Store.open(url) as second:
        lost = "lost its lock"
        with first.locked(tmp_path / "a", takeover.append):
            run = first.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
            step, _ = first.begin_step(run, 0, **synthetic.step_values("ablate/x"))  # type: ignore[arg-type]
            first.write(step, synthetic.ablation("layer", 0.1, layer=0))
            with second.engine.connect() as connection:
                held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                assert connection.execute(text(held)).scalars().all() == [True]
            first.write(step, synthetic.ablation("layer", 0.2, layer=1))  # nobody has taken the lock
            with second.locked(tmp_path / "b", takeover.append):
                writes: list[Callable[[], object]] = [
                    lambda: first.write(step, synthetic.ablation("layer", 0.3, layer=2)),
                    lambda: first.calls(step).withdraw(["key"]),
                    lambda: first.finish_step(step, status="done"),
                    lambda: first.finish_run(run, status="done"),
                ]
                for write in writes:
                    with pytest.raises(ResultsError, match=lost):
                        write()
                assert len(second.records(step, AblationScore)) == 2
                again = second.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
                second.finish_run(again, status="done")
        with second.engine.connect() as connection:
            statuses = connection.execute(text("SELECT status FROM study_run ORDER BY id")).scalars().all()
            assert statuses == ["interrupted", "done"]
    assert takeover == []


def test_a_harness_whose_lock_is_taken_over_ends_with_a_sentence(url: str, tmp_path: Path) -> None:
    first = start(tmp_path, *RUN, "--db", url)
    engine = create_engine(url)
    held = (
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()"
    )
    until = time.monotonic() + 300
    while time.monotonic() < until and first.poll() is None:
        with engine.connect() as connection:
            begun = (
                inspect(connection).has_table("step")
                and connection.execute(text("SELECT count(*) FROM step WHERE status = 'done'")).scalar()
            )
            if begun and connection.execute(text(held)).scalars().all():
                break
        time.sleep(0.1)
    engine.dispose()
    second = harness(tmp_path, *RUN, "--db", url, "--artifacts", "others")
    _, said = first.communicate(timeout=500)
    assert first.returncode == 1, said
    assert "lost its lock" in said.strip().splitlines()[-1]
    assert "Traceback" not in said
    assert second.returncode == 0, second.stderr
    asked = harness(tmp_path, "sql", "SELECT status FROM study_run ORDER BY id", "--db", url, "--format", "json")
    assert [row["status"] for row in json.loads(asked.stdout)] == ["interrupted", "done"]
