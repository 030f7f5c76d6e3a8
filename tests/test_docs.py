"""Documentation that cannot rot: generated pages are current, and the guide's code is the code that is tested."""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def generate() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["hooks.md", "cli.md", "schema.md", "datasette.json"])
def test_a_generated_page_is_current(generate: types.ModuleType, page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == generate.PAGES[page](), "run `make docs`"


def test_the_plugin_guide_shows_the_package_that_is_tested() -> None:
    guide = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", guide, flags=re.S)
    for file in ("src/harness_depth.py", "pyproject.toml"):
        assert (ROOT / "tests" / "third_party" / file).read_text() in blocks, f"{file} differs from the guide"
