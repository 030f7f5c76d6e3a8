"""The part of a step's key that identifies a benchmark: a hash of its definition and of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from harness.benchmarks.tasks import read_task, task_configs, task_names
from harness.config import digest
from harness.contract.settings import TRACE_LOSS
from harness.model.traces import resolve


def benchmark_fingerprint(name: str, task_paths: Sequence[str | Path] = (), local: str | None = None) -> str:
    """sha256 (hex) of a benchmark's definition.

    A task of the harness: its YAML and data files. A folder of the user's: every YAML, Python and data file in it. A
    task of lm-eval's: its name and lm-eval's version. A local file that replaces the data: its bytes as well.
    """
    data = [] if local is None else [_sha256(resolve(local))]
    if name == TRACE_LOSS:
        return digest([name, *data])
    if name in task_names():
        (config,) = task_configs([name])
        files = [Path(p) for p in ((config.get("dataset_kwargs") or {}).get("data_files") or {}).values()]
        definition = {k: v for k, v in read_task(name, resolve_functions=False).items() if k != "dataset_kwargs"}
        return digest([definition, [_sha256(f) for f in files], *data])
    suffixes = {".yaml", ".yml", ".py", ".jsonl", ".json", ".parquet", ".csv", ".tsv"}
    user_files = [f for p in task_paths for f in sorted(Path(p).rglob("*")) if f.suffix in suffixes]
    return digest([name, version("lm-eval"), [[f.name, _sha256(f)] for f in user_files], *data])


def _sha256(file: Path) -> str:
    """sha256 of a file. A missing one is reported when it is read."""
    if not file.is_file():
        return "missing"
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
