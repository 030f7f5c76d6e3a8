from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness.store.writer import Store


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
