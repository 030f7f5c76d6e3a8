from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Text, cast, func, select, text

from harness.errors import ResultsError, StorageError
from harness.records import Category, Explanation, LLMCall, LLMRequest, Record
from harness.store import schema
from harness.store.read import records_of
from harness.store.writer import Store


def _rows(store: Store, table: schema.Columns) -> int:
    with store.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.fixture
def run(store: Store, synthetic: ModuleType) -> int:
    return store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)


def test_a_step_that_was_interrupted_keeps_its_items(store: Store, run: int, synthetic: ModuleType) -> None:
    values = synthetic.step_values("probe/a")
    step, done = store.begin_step(run, 0, **values)
    assert done == frozenset()
    store.write(step, synthetic.feature("a", "f0", 0, "q_proj", 1.0))
    store.finish_step(step, status="interrupted", reason="by the user", wall_s=1.0)
    found = store.find_step(values["key"])
    assert found is not None
    assert (found.id, found.status, found.reason, found.output) == (step, "interrupted", "by the user", None)

    again, done = store.begin_step(run, 0, **values)
    assert (again, done) == (step, {"f0"})
    running = store.find_step(values["key"])
    assert running is not None
    assert (running.status, running.reason) == ("running", None)
    store.write(step, synthetic.feature("a", "f1", 0, "q_proj", 1.0))
    store.finish_step(step, status="done", wall_s=2.0, output={"ActivationSet": {"path": "x"}})
    finished = store.find_step(values["key"])
    assert finished is not None
    assert finished.output == {"ActivationSet": {"path": "x"}}
    assert _rows(store, schema.Feature) == 2


def test_a_done_step_is_not_begun_again_unless_asked(store: Store, run: int, synthetic: ModuleType) -> None:
    values = synthetic.step_values("probe/a")
    step, _ = store.begin_step(run, 0, **values)
    store.write(step, synthetic.feature("a", "f0", 0, "q_proj", 1.0))
    store.finish_step(step, status="done")
    with pytest.raises(ResultsError, match="done already"):
        store.begin_step(run, 0, **values)
    again, done = store.begin_step(run, 0, **values, restart=True)
    assert (again, done) == (step, frozenset())
    assert _rows(store, schema.Feature) == _rows(store, schema.Exemplar) == 0


def test_writing_an_item_again_replaces_it_with_its_parts(store: Store, run: int, synthetic: ModuleType) -> None:
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/base"))
    store.write(step, synthetic.evaluation("base", "b", [1, 0, 1]))
    store.write(step, synthetic.evaluation("base", "b", [1, 1]))
    assert (_rows(store, schema.Evaluation), _rows(store, schema.Sample)) == (1, 2)


def test_two_things_of_one_name_are_refused(store: Store, run: int, synthetic: ModuleType) -> None:
    step, _ = store.begin_step(run, 0, **synthetic.step_values("interpret/x"))
    one = Explanation(item="latent1", source="a", feature="latent1", interpreter="x", explanation=None, grade=None,
                      reason="r", n_exemplars=0)  # fmt: skip
    store.write(step, one)
    with pytest.raises(ResultsError, match="same item name"):
        store.write(step, one.model_copy(update={"source": "b"}))
    assert _rows(store, schema.Explanation) == 1


def test_write_many_is_all_or_nothing(store: Store, run: int, synthetic: ModuleType) -> None:
    step, _ = store.begin_step(run, 0, **synthetic.step_values("x"))
    good = synthetic.feature("a", "f", 0, None, 1.0)
    with pytest.raises(TypeError, match="not a record"):
        store.write_many(step, [good, object()])
    assert _rows(store, schema.Feature) == 0
    with pytest.raises(ResultsError, match="not in the database any more"):
        store.write(step + 1, good)


def test_every_record_comes_back_as_it_went(
    store: Store, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[type[Record], list[Record]] = {}

    def write(step_id: int, many: list[Record]) -> None:
        for record in many:
            written.setdefault(type(record), []).append(record)
        Store.write_many(store, step_id, many)

    monkeypatch.setattr(store, "write_many", write)
    run = synthetic.fill(store)
    dead = synthetic.feature("dead", "f", None, None, 0.0).model_copy(update={"exemplars": (), "sampled": ()})
    store.write_many(store.begin_step(run, 99, **synthetic.step_values("probe/dead"))[0], [dead])
    compared = store.begin_step(run, 100, **synthetic.step_values("compare/adapters"))[0]
    store.write_many(compared, synthetic.adapters())  # a run of one adapter has none
    assert {schema.table_of(record).columns for record in written} == set(schema.RECORDS)
    with store.engine.connect() as connection:
        for record, made in written.items():
            assert records_of(connection, record, run_id=run) == made, record.__name__
        assert records_of(connection, Explanation, run_id=run + 1) == []
        step = connection.execute(select(schema.Explanation.step_id).limit(1)).scalar_one()
        of_step = records_of(connection, Explanation, step_id=step)
        assert records_of(connection, Explanation) == written[Explanation]
    assert of_step == store.records(step, Explanation)
    assert of_step[0].explanation == f"operators {synthetic.HOSTILE}"


def test_zeros_of_activations_take_one_character(store: Store, synthetic: ModuleType) -> None:
    synthetic.fill(store)
    with store.engine.connect() as connection:
        stored = select(cast(schema.Exemplar.activations, Text)).order_by(schema.Exemplar.id).limit(1)
        assert re.fullmatch(r"\[(0,){5}\d+\.\d+(,0){5}\]", connection.execute(stored).scalar_one())


def test_deleting_a_step_deletes_its_records(store: Store, synthetic: ModuleType) -> None:
    synthetic.fill(store)
    with store.engine.execution_options(write=True).begin() as connection:
        connection.execute(text("DELETE FROM step"))
    for table in (*schema.RECORDS, schema.Sample, schema.Exemplar, schema.RunStep):
        assert _rows(store, table) == 0
    assert _rows(store, schema.LLMCall) == 4  # paid for: they outlive the step


def test_calls_are_replayed_and_failures_are_not(store: Store, run: int, synthetic: ModuleType) -> None:
    step, _ = store.begin_step(run, 0, **synthetic.step_values("interpret/x"))
    calls = store.calls(step)
    ok = synthetic._call("a", "ok")
    failed = ok.model_copy(update={"status": "failed", "reply": None, "error": "503"})
    asked = {ok.key: ok.request}
    assert calls.find(asked) == {}
    calls.store([failed])
    assert calls.find(asked) == {}
    calls.store([ok])
    assert calls.find(asked) == {ok.key: ok}
    calls.store([failed])
    assert calls.find(asked) == {ok.key: ok}
    other = LLMCall(key="k", provider="p", role="r", request=LLMRequest(model="m", user="u", json_schema={"a": [1]}),
                    status="ok", reply=ok.reply, n_attempts=1, latency_s=0.1)  # fmt: skip
    calls.store([other])
    assert calls.find({"k": other.request, "unknown": ok.request}) == {"k": other}


def test_claims_are_imported_once_and_can_be_replaced(store: Store, run: int, synthetic: ModuleType) -> None:
    n = _rows(store, schema.PaperClaim)
    assert n > 20
    store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    assert _rows(store, schema.PaperClaim) == n
    store.import_claims([{"place": "p", "quantity": "q", "subject": "s", "value": 1.0, "margin": 0.0, "unit": "share"}])
    assert _rows(store, schema.PaperClaim) == 1


def test_reused_steps_are_linked_once(store: Store, run: int, synthetic: ModuleType) -> None:
    step, _ = store.begin_step(run, 0, **synthetic.step_values("x"))
    store.finish_step(step, status="done")
    second = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    store.link_reused(second, step, 3)
    store.link_reused(second, step, 3)
    with store.engine.connect() as connection:
        link = schema.RunStep
        rows = connection.execute(select(link.position, link.reused).where(link.run_id == second)).all()
    assert rows == [(3, True)]


def test_a_locked_database_is_a_sentence(store: Store, run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    monkeypatch.setattr("harness.store.database.BUSY_TIMEOUT_MS", 10)
    holder = sqlite3.connect(store.path or "", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Store.open(store.path or "") as other, pytest.raises(ResultsError, match="is locked: another process"):
        other.finish_run(run, status="done")
    holder.close()


def test_a_full_disk_is_a_sentence_and_keeps_what_is_stored(store: Store, run: int, synthetic: ModuleType) -> None:
    step, _ = store.begin_step(run, 0, **synthetic.step_values("x"))
    store.write(step, synthetic.feature("a", "kept", 0, None, 1.0))
    with store.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    big = Category(item="big", category="c", name="n", definition="x" * 100_000)
    with pytest.raises(StorageError, match="no space left on the disk"):
        store.write(step, big)
    assert _rows(store, schema.Feature) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_keeps_what_was_written(store: Store, tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.store import synthetic
from harness.store.read import records_of
from harness.store.writer import Store
store = Store.open({str(store.path)!r})
run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
step, _ = store.begin_step(run, 0, **synthetic.step_values("x"))
for i in range(20):
    store.write(step, synthetic.feature("a", f"f{{i}}", 0, None, 1.0))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert _rows(store, schema.Feature) == 20
    assert _rows(store, schema.Exemplar) == 60
