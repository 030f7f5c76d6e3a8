"""Datasette itself reads results.db with the shipped metadata: `make test-datasette` installs it and runs this."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from harness.store.describe import QUERIES
from harness.store.views import views
from harness.store.writer import Store

DATASETTE = os.environ.get("HARNESS_DATASETTE")
METADATA = Path(__file__).parents[2] / "docs" / "datasette.json"

pytestmark = pytest.mark.skipif(
    DATASETTE is None, reason="no Datasette here: `make test-datasette` installs it and runs this"
)


def _get(database: Path, path: str) -> str:
    command = [str(DATASETTE), str(database), "-m", str(METADATA), "--get", path]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_datasette_shows_descriptions_views_and_queries(synthetic: ModuleType, tmp_path: Path) -> None:
    database = tmp_path / "results.db"
    with Store.open(database) as store:
        synthetic.fill(store)
    page = _get(database, "/results")
    assert all(view.name in page for view in views())
    assert all(query["title"] in page for query in QUERIES.values())
    assert "Benchmark scores (0 to 1)" in _get(database, "/results/v_evaluation")
    rows = json.loads(_get(database, "/results/scores.json?run_id=1&_shape=array"))
    assert {"benchmark", "variant", "score", "n_items"} == set(rows[0])
    assert "</script> b" not in _get(database, "/results/v_feature?_size=5")
