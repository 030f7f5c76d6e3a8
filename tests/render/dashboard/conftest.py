from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def studies() -> ModuleType:
    """Makers of whole studies."""
    from tests.render.dashboard import study as makers

    return makers


@pytest.fixture(scope="session")
def study(studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small study with hostile text."""
    return studies.make_study(tmp_path_factory.mktemp("study"))
