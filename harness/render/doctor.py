"""The checks of `harness doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from harness.errors import HarnessError
from harness.study.manager import Manager
from harness.study.provenance import installed_versions
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry

_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN")
_EXTRAS = {
    "vllm": "fast generation: pip install 'interp-harness[vllm]'",
    "ray": "several GPUs or machines: pip install 'interp-harness[ray]'",
}

Check = tuple[str, bool | None, str]
"""(name, True fine | False broken | None absent but optional, text)"""


def checks(registry: str | None, db: str) -> Iterator[Check]:
    """Run all checks, one line each. Keys are never printed."""
    versions = installed_versions()
    yield "versions", True, ", ".join(f"{name} {number}" for name, number in versions.items())
    yield _device()
    for name, purpose in _EXTRAS.items():
        there = find_spec(name) is not None
        yield f"extra {name}", True if there else None, "installed" if there else f"not installed ({purpose})"
    for name in _KEYS:
        yield name, True if os.environ.get(name) else None, "present: yes" if os.environ.get(name) else "present: no"
    yield _database(db)
    yield from _registry(registry)


def _device() -> Check:
    try:
        import torch
    except ImportError as error:
        return "device", False, f"torch cannot be imported: {error}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return "device", True, f"{len(names)} GPU: {', '.join(names)}"
    return "device", True, f"CPU, {torch.get_num_threads()} threads (no GPU: the organism and small models run here)"


def _database(db: str) -> Check:
    from harness.store.database import database_url, schema_version
    from harness.store.writer import Store

    if "://" not in db and not Path(db).exists():
        return "database", None, f"{db}: none yet; the first run makes it"
    try:
        with Store.open(db) as store:
            return "database", True, f"{database_url(db)}, schema {schema_version(store.engine)}"
    except HarnessError as error:
        return "database", False, str(error)


def _registry(given: str | None) -> Iterator[Check]:
    try:
        path = find_registry(given)
        registry = read_registry(path)
    except HarnessError as error:
        yield "registry", False, str(error)
        return
    manager = Manager(registry)
    n_plugins, n_observers = len(manager.load_all()), len(manager.observers())
    yield "registry", True, f"{path}: {n_plugins} plugins, {n_observers} observers, {len(registry.studies)} studies"
    for why in manager.broken.values():
        yield "left out", False, why
