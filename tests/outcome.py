"""What a run left behind, without what says when and where: two runs of one study can be compared."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

VOLATILE = {
    "id", "step_id", "run_id", "evaluation_id", "feature_id", "wall_s", "started_at", "finished_at", "path",
    "stored_at", "latency_s", "git_sha", "git_dirty", "artifact",
}  # fmt: skip


def contents(folder: Path) -> dict[str, list[str]]:
    """Every stored record without ids and times, by table, sorted; children carry their parent's item."""
    found: dict[str, list[str]] = {}
    with sqlite3.connect(folder / "results.db") as connection:
        connection.row_factory = sqlite3.Row
        names = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in sorted(set(names) - {"study_run", "run_step", "alembic_version", "sqlite_sequence"}):
            found[table] = sorted(
                json.dumps({k: row[k] for k in row.keys() if k not in VOLATILE}, sort_keys=True)
                for row in connection.execute(f'SELECT * FROM "{table}"')
            )
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Weights and activations, by path."""
    kept = [p for p in (folder / "artifacts").rglob("*") if p.suffix in {".safetensors", ".npy"}]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}
