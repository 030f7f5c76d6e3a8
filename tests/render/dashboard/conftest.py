from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def studies() -> ModuleType:
    """Makers of whole studies."""
    path = Path(__file__).with_name("study.py")
    spec = importlib.util.spec_from_file_location("dashboard_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def study(studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small study with hostile text."""
    return studies.make_study(tmp_path_factory.mktemp("study"))
