"""Which value each setting has in a study and preset before `--set`, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from harness.errors import UnknownName
from harness.records import ModelRef
from harness.study.manager import Manager
from harness.study.plan import inherited_settings, setting_layers
from harness.study.registry import STUDY_SECTIONS, Registry, find_study


class Setting(NamedTuple):
    """A setting's value, and what gave it: `default`, `plugin` (its row in registry.yaml), `study` or `preset P`."""

    value: Any
    origin: str


def names_with_settings(manager: Manager) -> list[str]:
    """What `--set NAME.KEY=VALUE` reaches: sections of a study, and plugins."""
    return ["model", *STUDY_SECTIONS, *manager.names()]


def effective(
    registry: Registry, manager: Manager, name: str, study_name: str, preset: str | None = None
) -> tuple[type[BaseModel], dict[str, Setting]]:
    """The settings of a section or plugin, each with where it comes from.

    Returns:
        The class that declares them, and key -> setting.

    Raises:
        UnknownName: no such section, plugin, study or preset.
    """
    study = find_study(registry, study_name)
    layers = setting_layers(study, preset, {}, manager, study_name)[:2]
    found: dict[str, Setting] = {}

    def lay(values: Mapping[str, Any], origin: str) -> None:
        found.update({key: Setting(value, origin) for key, value in values.items()})

    declared: type[BaseModel]
    if name == "model" or name in STUDY_SECTIONS:
        declared, own = STUDY_SECTIONS.get(name, ModelRef), getattr(study, name)
        lay(defaults(declared), "default")
        lay({key: getattr(own, key) for key in own.model_fields_set}, "study")
    elif name in manager.names():
        offer = manager.offer(name)
        declared = offer.registration.config
        lay(defaults(declared), "default")
        lay(offer.row_config, "plugin")
        lay(inherited_settings(study, layers, manager).get(name, {}), "study")
    else:
        raise UnknownName("plugin or section", name, names_with_settings(manager))
    lay(layers[0].get(name, {}), "study")
    lay(layers[1].get(name, {}), f"preset {preset}")
    return declared, {key: found[key] for key in declared.model_fields if key in found}


def defaults(declared: type[BaseModel]) -> dict[str, Any]:
    """Key -> default; `required` where there is none."""
    fields = declared.model_fields.items()
    return {k: "required" if f.is_required() else f.get_default(call_default_factory=True) for k, f in fields}
