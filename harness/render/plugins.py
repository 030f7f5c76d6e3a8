"""The registry as tables: plugins, studies, settings, hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from harness.config import Config
from harness.contract import hooks as hookspecs
from harness.errors import UnknownName
from harness.records import Record
from harness.store.describe import field_docs
from harness.study.effective import effective, names_with_settings
from harness.study.manager import Manager
from harness.study.plain_types import type_of_field
from harness.study.registry import STUDY_SECTIONS, Registry


def plugin_table(manager: Manager) -> Table:
    """Name, stage, origin, version, summary."""
    table = Table(title="Plugins", title_justify="left")
    for column in ("name", "stage", "version", "summary", "origin"):
        table.add_column(column, no_wrap=column in ("name", "stage"))
    for offer in manager.load_all():
        r = offer.registration
        table.add_row(r.name, offer.stage, r.version, Text(r.summary), Text(offer.origin, style="dim"))
    return table


def observer_table(manager: Manager) -> Table | None:
    """Name, hooks, origin of the modules that observe or wrap steps; None where there are none."""
    table = Table(title="Observers", title_justify="left")
    for column in ("name", "hooks", "origin"):
        table.add_column(column, no_wrap=column == "name")
    for observer in manager.observers():
        table.add_row(observer.name, ", ".join(observer.hooks), Text(observer.origin, style="dim"))
    return table if table.row_count else None


def left_out(manager: Manager) -> Iterator[RenderableType]:
    """A sentence for each module that could not be loaded."""
    for why in manager.broken.values():
        yield Text(f"left out: {why}", style="yellow")


def study_table(registry: Registry) -> Table:
    """Name, model, presets, summary."""
    table = Table(title="Studies", title_justify="left")
    for column in ("name", "model", "presets", "summary"):
        table.add_column(column)
    for name, study in registry.studies.items():
        table.add_row(name, Text(study.model.path), ", ".join(study.presets) or "-", Text(study.summary))
    return table


def describe(
    registry: Registry, manager: Manager, name: str, study: str | None = None, preset: str | None = None
) -> Iterator[RenderableType]:
    """The settings of a plugin, a section of studies, or a study, as they are in a study and preset.

    Args:
        registry: the registry.
        manager: loads the plugin.
        name: what is described; a name can be a study's and a plugin's.
        study: whose values are shown; the default study if not given.
        preset: of that study.

    Raises:
        UnknownName: nothing has that name.
    """
    known = [*registry.studies, *names_with_settings(manager)]
    if name not in known:
        raise UnknownName("study, plugin or section", name, known)
    of = study or (name if name in registry.studies else registry.default_study)
    if name in registry.studies and name == of:
        yield from _study(registry, manager, name, preset)
    if name in names_with_settings(manager):
        if name in manager.names():
            offer = manager.offer(name)
            yield Text(f"plugin {name} ({offer.stage}, {offer.origin}): {offer.registration.summary}")
        yield _settings(registry, manager, name, of, preset)


def _study(registry: Registry, manager: Manager, name: str, preset: str | None) -> Iterator[RenderableType]:
    study = registry.studies[name]
    yield Text(f"study {name}: {study.summary}")
    for field in ("model", *STUDY_SECTIONS):
        yield _settings(registry, manager, field, name, preset)
    presets = Table(title="Presets", title_justify="left")
    presets.add_column("name")
    presets.add_column("settings")
    for other, settings in study.presets.items():
        presets.add_row(other, Text(", ".join(f"{k}={v}" for k, v in settings.items()) or "the study as it is"))
    yield presets


def _settings(registry: Registry, manager: Manager, name: str, study: str, preset: str | None) -> Table:
    """Settings as `--set` takes them: key, type, value, where that comes from, meaning."""
    declared, settings = effective(registry, manager, name, study, preset)
    where = f"study {study}" + (f", preset {preset}" if preset else "")
    table = Table(title=f"--set {name}.KEY=VALUE    (values in {where})", title_justify="left")
    for column in ("key", "type", "value", "from", "meaning"):
        table.add_column(column, overflow="fold")
    for key, (value, origin) in settings.items():
        field = declared.model_fields[key]
        shown = value.model_dump() if isinstance(value, Config) else value
        where_from = Text(origin, style="dim" if origin == "default" else "bold")
        table.add_row(key, Text(type_of_field(field)), Text(as_set(shown)), where_from, Text(meanings(declared)[key]))
    return table


def meanings(declared: type[BaseModel]) -> dict[str, str]:
    """Field -> what it is; a record's from its docstrings, which pydantic has not read."""
    if issubclass(declared, Record):
        return field_docs(declared)
    return {key: " ".join((field.description or "").split()) for key, field in declared.model_fields.items()}


def as_set(value: Any) -> str:
    """A value as `--set` takes it: YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(as_set(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {as_set(v)}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def hook_reference() -> str:
    """Every hook: signature and docstring, from the hook specifications themselves."""
    parts = []
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("harness_"):
            signature = str(inspect.signature(function)).replace("'", "")
            parts.append(f"{name}{signature}\n\n    {inspect.getdoc(function) or ''}".replace("\n", "\n    ").rstrip())
    return "\n\n".join(parts)
