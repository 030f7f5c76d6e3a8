"""A field that is added to a record is found everywhere: added in a copy of the package, migrated by the command."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.store.writer import Store
from tests.store import synthetic

ROOT = Path(__file__).parents[2]
FIELD = '''    surprise_nats: Estimate | None = None
    """How surprising it was."""
'''
WRITE = """
from harness.records import Estimate
from harness.store.writer import Store
from tests.store import synthetic
with Store.open("results.db") as store:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("ablate/new", "ablate"))
    score = synthetic.ablation("layer", 0.5, layer=9)
    store.write(step, score.model_copy(update={"surprise_nats": Estimate(2.5, 2.0, 3.0)}))
    assert store.records(step, type(score))[0].surprise_nats == Estimate(2.5, 2.0, 3.0)
"""


def copy_with_field(folder: Path) -> None:
    """The package with one more field; what is not touched is linked."""
    (folder / "harness").mkdir()
    for path in (ROOT / "harness").iterdir():
        if path.name in ("records", "store"):
            shutil.copytree(path, folder / "harness" / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "harness" / path.name).symlink_to(path)
    (folder / "harness_plugins").symlink_to(ROOT / "plugins")
    (folder / "tests").symlink_to(ROOT / "tests")
    file = folder / "harness" / "records" / "ablate.py"
    before, after = file.read_text().split("    place: ")
    file.write_text(f"{before}{FIELD}    place: {after}")


def test_an_added_field_is_in_table_view_csv_json_and_docs(tmp_path: Path) -> None:
    with Store.open(tmp_path / "results.db") as store:
        synthetic.fill(store)
    copy_with_field(tmp_path)

    def python(*args: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(form: str) -> str:
        columns = "item, surprise_nats, surprise_ci_low, surprise_ci_high"
        statement = f"SELECT {columns} FROM v_ablation WHERE scope = 'layer' ORDER BY layer DESC"
        return python("-m", "harness.cli", "sql", statement, "--format", form)

    python("-m", "harness.store.migration", "add surprise")
    (migration,) = (tmp_path / "harness/store/migrations/versions").glob("v2_*.py")
    assert migration.name == "v2_add_surprise.py"
    python("-c", WRITE)
    rows = json.loads(ask("json"))
    assert rows[0] == {"item": "layer/9", "surprise_nats": 2.5, "surprise_ci_low": 2.0, "surprise_ci_high": 3.0}
    assert len(rows) == 5, "what an older version stored is still there"
    assert rows[1]["surprise_nats"] is None
    assert next(csv.DictReader(ask("csv").splitlines()))["surprise_ci_low"] == "2.0"
    page = python("-c", "from harness.store.describe import schema_markdown; print(schema_markdown())")
    assert "| `surprise_nats` | double, may be NULL | nats per token | How surprising it was. |" in page
