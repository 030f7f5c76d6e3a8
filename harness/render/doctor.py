"""The checks of `harness doctor`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import select

from harness.errors import HarnessError
from harness.study.artefacts import FILES, damage
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


def artefact_checks(db: str, artifacts: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Compare the files of every done step with what was written: a line per step where they differ, then one for all.

    Args:
        db: the database.
        artifacts: the artefact folder.
        say: told how far it is, every two seconds.
    """
    from harness.store.database import open_database, translate_db_errors
    from harness.store.schema import Step

    engine = open_database(db, create=False)
    try:
        done = select(Step.name, Step.artifact, Step.output_json).where(Step.status == "done").order_by(Step.id)
        with translate_db_errors(db), engine.connect() as connection:
            rows = [row for row in connection.execute(done) if row.output_json and row.artifact]
    finally:
        engine.dispose()
    n_damaged, due = 0, time.monotonic() + 2
    for position, row in enumerate(rows):
        if time.monotonic() > due:
            say(f"compared the files of {position} of {len(rows)} steps")
            due = time.monotonic() + 2
        why = damage(row.output_json, artifacts.resolve() / row.artifact, contents=True)
        if why is not None:
            n_damaged += 1
            yield "artefacts", False, f"{row.name}: {why}"
    files = [size for row in rows for size, _ in row.output_json.get(FILES, {}).values()]
    n_unknown = sum(FILES not in row.output_json for row in rows)
    text = f"{len(rows) - n_damaged} of {len(rows)} steps whole ({len(files)} files, {sum(files) / 1e6:,.1f} MB)"
    if n_unknown:
        text += f"; {n_unknown} have no hashes (stored before there were any): only that they are there is known"
    if n_damaged:
        text += "; the next harness run does the others again, those of the right size once a step is to read them"
    yield "artefacts", n_damaged == 0, text
