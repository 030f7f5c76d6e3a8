from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness.store.writer import Store


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Makers of plausible records."""
    path = Path(__file__).parents[1] / "store" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def filled(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one finished run."""
    path = tmp_path_factory.mktemp("report") / "results.db"
    with Store.open(path) as store:
        synthetic.fill(store)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    with Store.open(tmp_path / "results.db") as opened:
        yield opened
