from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness.store.writer import Store


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synthetic_results", Path(__file__).with_name("synthetic.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Makers of plausible records."""
    return _load()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows: copying it is faster than migrating."""
    path = tmp_path_factory.mktemp("db") / "empty.db"
    Store.open(path).close()
    return path


@pytest.fixture
def store(empty_file: Path, tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    path = tmp_path / "results.db"
    path.write_bytes(empty_file.read_bytes())
    with Store.open(path) as opened:
        yield opened
