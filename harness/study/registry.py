"""registry.yaml: which plugins there are, and which studies are made of them.

An error names file, line and field. Precedence of settings: field default < plugin's row < study's `set` < preset <
`--set`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import Field, ValidationError, create_model

from harness.config import Config
from harness.errors import RegistryError, UnknownName
from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig
from harness.study import steps
from harness.study.study_config import PluginList, StudyConfig

Location = tuple[str | int, ...]


STUDY_SECTIONS: dict[str, type[Config]] = {"data": DataConfig, "chat": ChatFormat, **steps.sections()}
"""Sections of a study that `--set SECTION.KEY=VALUE` reaches, beside `model`, `read_chat`, `providers` and plugins."""

if TYPE_CHECKING:
    FullStudyConfig = StudyConfig
else:
    _fields = {name: (section, section()) for name, section in steps.sections().items()}
    FullStudyConfig = create_model("FullStudyConfig", __base__=StudyConfig, __module__=__name__, **_fields)
    """A study with the sections that the stages declare."""


class Registry(PluginList):
    """registry.yaml."""

    version: int = Field(ge=1, le=1)
    """Format of the file."""
    default_study: str
    """Study that lends its model, data and adapter to `--plugin NAME` where NAME is a plugin."""
    studies: dict[str, FullStudyConfig]
    """All studies."""


def read_registry(path: Path) -> Registry:
    """Read and check a registry.

    Raises:
        RegistryError: not YAML, an unknown or missing field, a wrong value, a duplicate name, a study that names a
            plugin of another stage.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RegistryError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
    lines: dict[Location, int] = {}
    if node is not None:
        _index_lines(node, (), lines)
    _refuse_duplicate_keys(node, path)
    try:
        registry = Registry.model_validate(data)
    except ValidationError as error:
        errors = error.errors()
        # A misspelt field is both extra and missing: the extra name is what the user typed.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        raise RegistryError(_sentence(path, lines, first["loc"], first["msg"])) from error
    _check_names(registry, path, lines)
    return registry


def _index_lines(node: yaml.Node, place: Location, lines: dict[Location, int]) -> None:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _index_lines(value, (*place, key.value), lines)
            lines[(*place, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _index_lines(value, (*place, i), lines)


def _refuse_duplicate_keys(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise RegistryError(f"{path}:{key.start_mark.line + 1}: {key.value!r} is given twice")
            seen.add(key.value)
            _refuse_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path)


def _sentence(path: Path, lines: dict[Location, int], place: Location, message: str) -> str:
    nearest = place
    while nearest and nearest not in lines:
        nearest = nearest[:-1]
    field = ".".join(str(p) for p in place)
    return f"{path}:{lines.get(nearest, 1)}: {field}: {message}"


def _check_names(registry: Registry, path: Path, lines: dict[Location, int]) -> None:
    seen: set[str] = set()
    for i, row in enumerate(registry.plugins):
        if row.name in seen:
            raise RegistryError(_sentence(path, lines, ("plugins", i, "name"), f"{row.name!r} is given twice"))
        seen.add(row.name)
    if registry.default_study not in registry.studies:
        raise RegistryError(_sentence(path, lines, ("default_study",), f"no study {registry.default_study!r}"))


def find_study(registry: Registry, name: str) -> StudyConfig:
    """The study of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in registry.studies:
        raise UnknownName("study", name, registry.studies)
    return registry.studies[name]
