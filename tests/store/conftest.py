from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store.writer import Store


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
