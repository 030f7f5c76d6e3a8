"""Documentation that cannot rot: generated pages are current, and the guide's code is the code that is tested."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
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


@pytest.mark.parametrize("page", ["hooks.md", "cli.md", "schema.md", "settings.md", "datasette.json"])
def test_a_generated_page_is_current(generate: types.ModuleType, page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == generate.PAGES[page](), "run `make docs`"


def test_the_plugin_guide_shows_the_packages_that_are_tested() -> None:
    guide = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", guide, flags=re.S)
    for file in ("depth/src/harness_depth.py", "depth/pyproject.toml", "synergy/src/harness_synergy.py"):
        assert (ROOT / "tests" / "third_party" / file).read_text() in blocks, f"{file} differs from the guide"


def test_the_plugin_guide_describes_every_attribute_of_a_component_as_its_class_does() -> None:
    from harness.model.components import Component

    guide = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    described = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", guide, flags=re.M))
    text = inspect.getdoc(Component) or ""
    attributes = re.findall(r"^    (\w+): (.+(?:\n        .+)*)", text.partition("Attributes:\n")[2], flags=re.M)
    assert [name for name, _ in attributes] == [field.name for field in dataclasses.fields(Component)]
    for name, meaning in attributes:
        assert described[name] == " ".join(meaning.split()), name
