"""registry.yaml: which plugins there are, and which studies are made of them.

An error names file, line and field. Precedence of settings: field default < plugin's row < study's `set` < preset <
`--set`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError, create_model

from harness.config import Config
from harness.errors import RegistryError, UnknownName
from harness.files import printable, reading
from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig
from harness.study import steps
from harness.study.study_config import PluginList, StudyConfig

Location = tuple[str | int, ...]
_MOST_VALUES = 100_000
"""Of a registry with its aliases written out: a few lines of them can stand for billions."""
_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
"""Keys are names: YAML 1.1 would take `on`, `off`, `yes` and `no` for truth values."""


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
        RegistryError: it cannot be read or is not YAML, an unknown or missing field, a wrong value, a duplicate name,
            a study that names a plugin of another stage.
    """
    lines: dict[Location, int] = {}
    with reading(path, "write it as registry.yaml of the package is written", error_type=RegistryError):
        data = _parse(path, lines)
    try:
        registry = Registry.model_validate(data)
    except ValidationError as error:
        errors = error.errors()
        # A misspelt field is both extra and missing: the extra name is what the user typed.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        raise RegistryError(_sentence(path, lines, first["loc"], first["msg"])) from error
    _check_names(registry, path, lines)
    return registry


def _parse(path: Path, lines: dict[Location, int]) -> Any:
    """What the file holds; the line of each place goes into `lines`.

    Raises:
        RegistryError: not YAML, a key twice, or one that is no text, or aliases that repeat too much.
    """
    text = path.read_text(encoding="utf-8")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        _index_lines(node, (), lines, path)
        return yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RegistryError(f"{path}{line}: {error.problem or error}") from error


def _index_lines(node: yaml.Node, place: Location, lines: dict[Location, int], path: Path) -> None:
    line = node.start_mark.line + 1
    if len(lines) > _MOST_VALUES:
        raise RegistryError(f"{path}:{line}: its aliases make more than {_MOST_VALUES:,} values of it; write them out")
    lines[place] = line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RegistryError(f"{path}:{line}: a key that is a list or a mapping; keys are names")
            if key.tag == _BOOLEAN:
                key.tag = _TEXT
            if (*place, key.value) in lines:
                raise RegistryError(f"{path}:{line}: {key.value!r} is given twice")
            _index_lines(value, (*place, key.value), lines, path)
            lines[(*place, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _index_lines(value, (*place, i), lines, path)


def _sentence(path: Path, lines: dict[Location, int], place: Location, message: str) -> str:
    nearest = place
    while nearest and nearest not in lines:
        nearest = nearest[:-1]
    field = ".".join(str(p) for p in place)
    return printable(f"{path}:{lines.get(nearest, 1)}: {field}: {message}")


def _check_names(registry: Registry, path: Path, lines: dict[Location, int]) -> None:
    seen: set[str] = set()
    for i, row in enumerate(registry.plugins):
        if row.name in seen:
            raise RegistryError(_sentence(path, lines, ("plugins", i, "name"), f"{row.name!r} is given twice"))
        seen.add(row.name)
    for name, study in registry.studies.items():
        called: set[str] = set()
        places = [(part, i) for part in ("dictionaries", "adapters") for i in range(len(getattr(study, part)))]
        for part, i in places:
            row = getattr(study, part)[i]
            if row.name in called:
                message = f"two dictionaries or adapters are called {row.name!r}; give one of them another name"
                raise RegistryError(_sentence(path, lines, ("studies", name, part, i, "name"), message))
            called.add(row.name)
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
