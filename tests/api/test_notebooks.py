"""The notebooks of examples/ run from end to end beside the results of a study, and are kept with outputs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path: Path, notebooks: ModuleType, tiny_study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_study, tmp_path / "study")
    node = notebooks.executed(path, folder)
    shown = [o for cell in node.cells for o in cell.get("outputs", []) if o.output_type in ("execute_result", "stream")]
    assert len(shown) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_with_its_outputs(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells), "make demo notebooks"
    text = path.read_text(encoding="utf-8")
    assert "/tmp/" not in text, "no place of a machine"
    assert "/home/" not in text, "no place of a machine"
