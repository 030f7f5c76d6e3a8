"""What a step's key says of a benchmark: the bytes of its definition and of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from harness.benchmarks.tasks import task_configs, task_names
from harness.config import digest


def benchmark_fingerprint(name: str, task_paths: Sequence[str | Path] = ()) -> str:
    """sha256 (hex) of a benchmark's definition.

    A task of the harness: its YAML and data files. A folder of the user's: every YAML, Python and data file in it. A
    task of
    lm-eval's: its name and lm-eval's version.
    """
    if name in task_names():
        (config,) = task_configs([name])
        files = [Path(p) for p in config["dataset_kwargs"]["data_files"].values()]
        config["dataset_kwargs"]["data_files"] = {}
        return digest([config, [_sha256(f) for f in files]])
    own = [
        f
        for p in task_paths
        for f in sorted(Path(p).rglob("*"))
        if f.suffix in {".yaml", ".yml", ".py", ".jsonl", ".json"}
    ]
    return digest([name, version("lm-eval"), [[f.name, _sha256(f)] for f in own]])


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
