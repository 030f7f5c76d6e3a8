"""One run at a time writes to a database and to an artefact folder, whatever they are called."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import select

from harness.errors import ResultsError
from harness.store import schema
from harness.store.writer import Store

Hold = Callable[[Store, Path], None]


def waits(first: tuple[Path, Path], second: tuple[Path, Path]) -> str:
    """What a run on the second (database, folder) says while another one holds the first."""
    said: list[str] = []
    with Store.open(first[0]) as a, Store.open(second[0]) as b:
        waiting, entered = threading.Event(), threading.Event()

        def wait() -> None:
            with b.locked(second[1], lambda sentence: (said.append(sentence), waiting.set())[0]):  # type: ignore[func-returns-value]
                entered.set()

        thread = threading.Thread(target=wait)
        with a.locked(first[1], said.append):
            thread.start()
            assert waiting.wait(10), "it did not wait"
            assert not entered.wait(0.2)
        assert entered.wait(10), "it did not go on"
        thread.join()
    (sentence,) = said
    return sentence


@pytest.mark.parametrize("how", ["link", "linked folder", "dots", "same"])
def test_a_database_has_one_lock_by_whatever_path(tmp_path: Path, how: str) -> None:
    real = tmp_path / "real"
    real.mkdir()
    Store.open(real / "r.db").close()
    (tmp_path / "link.db").symlink_to(real / "r.db")
    (tmp_path / "folder").symlink_to(real)
    other = {
        "link": tmp_path / "link.db", "linked folder": tmp_path / "folder" / "r.db",
        "dots": tmp_path / "real" / ".." / "real" / "r.db", "same": real / "r.db",
    }[how]  # fmt: skip
    assert "waiting for it to end" in waits((real / "r.db", tmp_path / "a"), (other, tmp_path / "b"))


def test_two_databases_on_one_artefact_folder_wait(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "artifacts")
    said = waits((tmp_path / "a.db", tmp_path / "artifacts"), (tmp_path / "b.db", tmp_path / "link"))
    assert said == f"another run is writing to the folder {tmp_path / 'link'}; waiting for it to end"


def test_what_was_killed_is_interrupted_when_the_next_run_begins(store: Store, synthetic: ModuleType) -> None:
    artifacts = (store.path or Path()).parent / "artifacts"
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("x"))
    with store.locked(artifacts, pytest.fail), store.engine.connect() as connection:
        for table, id_ in ((schema.StudyRun, run), (schema.Step, step)):
            status, reason = connection.execute(select(table.status, table.reason).where(table.id == id_)).one()
            assert status == "interrupted"
            assert "killed" in reason


@pytest.mark.parametrize("harm", ["deleted", "replaced", "folder deleted", "folder moved", "artefacts deleted"])
def test_what_vanishes_under_a_run_ends_it(tmp_path: Path, synthetic: ModuleType, harm: str) -> None:
    folder, artifacts = tmp_path / "study", tmp_path / "artifacts"
    folder.mkdir()
    with Store.open(folder / "r.db") as store, store.locked(artifacts, pytest.fail):
        run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
        step, _ = store.begin_step(run, 0, **synthetic.step_values("x"))
        if harm == "artefacts deleted":
            os.remove(artifacts / ".lock")
            artifacts.rmdir()
        elif harm == "folder moved":
            folder.rename(tmp_path / "elsewhere")
        else:
            for path in list(folder.iterdir()):
                path.unlink()
            if harm == "folder deleted":
                folder.rmdir()
            elif harm == "replaced":
                Store.open(folder / "r.db").close()
        says = "was replaced by another one" if harm == "replaced" else "was deleted or moved away during the run"
        for write in (
            lambda: store.write(step, synthetic.ablation("layer", 0.1, layer=0)),
            lambda: store.finish_step(step, status="done"),
            lambda: store.finish_run(run, status="done"),
            lambda: store.find_step("key"),
            lambda: store.calls(step).withdraw(["key"]),
        ):
            with pytest.raises(ResultsError, match=says):
                write()
