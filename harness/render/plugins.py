"""The registry as tables: plugins, studies, settings, hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from harness.config import Config
from harness.contract import hooks as hookspecs
from harness.errors import UnknownName
from harness.study.manager import Manager
from harness.study.registry import STUDY_SECTIONS, Registry
from harness.study.study_config import StudyConfig


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


def describe(registry: Registry, manager: Manager, name: str) -> Iterator[RenderableType]:
    """A study's and a plugin's settings. A name can be both.

    Raises:
        UnknownName: neither.
    """
    if name in registry.studies:
        yield from _study(name, registry.studies[name])
    if name in manager.names():
        offer = manager.offer(name)
        yield Text(f"plugin {name} ({offer.stage}, {offer.origin}): {offer.registration.summary}")
        yield config_table(name, offer.registration.config, dict(offer.row_config))
    elif name not in registry.studies:
        raise UnknownName("study or plugin", name, [*registry.studies, *manager.names()])


def _study(name: str, study: StudyConfig) -> Iterator[RenderableType]:
    yield Text(f"study {name}: {study.summary}")
    for field in ("model", *STUDY_SECTIONS):
        part = getattr(study, field)
        yield config_table(field, type(part), part.model_dump())
    presets = Table(title="Presets", title_justify="left")
    presets.add_column("name")
    presets.add_column("settings")
    for preset, settings in study.presets.items():
        presets.add_row(preset, Text(", ".join(f"{k}={v}" for k, v in settings.items()) or "the study as it is"))
    yield presets


def config_table(name: str, config: type[Any], values: dict[str, Any]) -> Table:
    """Settings as `--set` takes them: key, type, value, meaning."""
    table = Table(title=f"--set {name}.KEY=VALUE", title_justify="left")
    for column in ("key", "type", "value", "meaning"):
        table.add_column(column)
    for key, field in config.model_fields.items():
        default = values.get(key, "required" if field.is_required() else field.get_default(call_default_factory=True))
        value = default.model_dump() if isinstance(default, Config) else default
        kind = (
            str(field.annotation).replace("typing.", "")
            if not inspect.isclass(field.annotation)
            else field.annotation.__name__
        )
        table.add_row(key, Text(kind), Text(str(value)), Text(field.description or ""))
    return table


def hook_reference() -> str:
    """Every hook: signature and docstring, from the hook specifications themselves."""
    parts = []
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("harness_"):
            signature = str(inspect.signature(function)).replace("'", "")
            parts.append(f"{name}{signature}\n\n    {inspect.getdoc(function) or ''}".replace("\n", "\n    ").rstrip())
    return "\n\n".join(parts)
