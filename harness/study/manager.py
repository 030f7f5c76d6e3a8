"""The manager: pluggy with a typed face.

It imports only the plugins that are asked for, checks what they return, refuses duplicates, and gives observers a safe
place: one that raises is logged and counted, never fatal.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from harness.config import Config
from harness.contract import hooks as hookspecs
from harness.contract.report import Report
from harness.contract.stages import STAGES, Registration, Stage
from harness.errors import RegistryError, UnknownName, UsageError
from harness.study.registry import PluginRow, Registry

ENTRY_POINT_GROUP = "harness"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A plugin that is there: what it registered, and where it came from."""

    registration: Registration[Any]
    stage: Stage
    origin: str
    row_config: Mapping[str, Any]


class Manager:
    """Loads plugins by name and hands out what they offer.

    Attributes:
        registry: the rows that it was made of.
        pm: pluggy's manager.
        observer_failures: how often an observer raised.
    """

    def __init__(self, registry: Registry) -> None:
        """Load nothing yet."""
        self.registry = registry
        self._rows = {row.name: row for row in registry.plugins}
        self._entry_points: dict[str, EntryPoint] = {e.name: e for e in entry_points(group=ENTRY_POINT_GROUP)}
        self._offers: dict[str, Offer] = {}
        self._modules: set[str] = set()
        self.pm = pluggy.PluginManager(hookspecs.PROJECT)
        self.pm.add_hookspecs(hookspecs)
        self.pm.register(_DefaultStep(), name="harness-default-step")
        self.observer_failures = 0

    def names(self) -> list[str]:
        """Names of the registry's plugins, and of the entry points that the registry does not name."""
        return [*self._rows, *(n for n in sorted(self._entry_points) if n not in self._rows)]

    def stage_of(self, name: str) -> Stage:
        """The stage of a plugin."""
        row = self._rows.get(name)
        return row.stage if row else self.offer(name).stage

    def offer(self, name: str) -> Offer:
        """Import the plugin of that name, if it is not yet, and return what it offers.

        Raises:
            UnknownName: no such plugin.
            RegistryError: its module is missing, or offers no plugin of that name.
        """
        if name not in self._offers:
            if name in self._rows:
                self._load_row(self._rows[name])
            elif name in self._entry_points:
                self._load_entry_point(self._entry_points[name])
            else:
                raise UnknownName("plugin", name, self.names(), hint="list: harness plugins")
        return self._offers[name]

    def load_all(self) -> list[Offer]:
        """Every plugin, for listings."""
        return [self.offer(name) for name in self.names()]

    def reports(self) -> list[Report[Any]]:
        """The reports that plugins bring. Every plugin is loaded but the harness's own, which bring none.

        Raises:
            UsageError: a plugin offers something else as a report.
        """
        for name in self.names():
            module = self._rows[name].module if name in self._rows else self._entry_points[name].module
            if not module.startswith("harness_plugins."):
                self.offer(name)
        reports = [report for offered in self.pm.hook.harness_reports() for report in offered]
        for report in reports:
            if not isinstance(report, Report):
                raise UsageError(f"harness_reports returned {type(report).__name__}, not a Report")
        return reports

    def config(self, name: str, *layers: Mapping[str, Any]) -> Config:
        """A plugin's config: defaults < registry row < the given layers."""
        offer = self.offer(name)
        return offer.registration.config.merged(name, offer.row_config, *layers)

    def implementation(self, name: str, config: Config) -> Any:
        """Import and construct a plugin's implementation. This is where torch is imported."""
        return self.offer(name).registration.load()(config)

    def notify(self, observe: Callable[..., Any], event: object) -> None:
        """Call the observers of an event. What they raise is logged and counted."""
        try:
            observe(event=event)
        except Exception:  # noqa: BLE001 - observers are strangers; the run is not theirs to end
            self.observer_failures += 1
            _log.exception("an observer of %s failed", type(event).__name__)

    def _load_row(self, row: PluginRow) -> None:
        try:
            module = importlib.import_module(row.module)
        except ModuleNotFoundError as error:
            raise RegistryError(
                f"plugin {row.name!r}: no module {error.name!r} (registry row names {row.module!r}); "
                "install the package or correct the row"
            ) from error
        self._register(module, row.module, f"registry: {row.module}")
        offer = self._offers.get(row.name)
        if offer is None:
            raise RegistryError(f"plugin {row.name!r}: {row.module} offers no plugin of that name")
        if offer.stage != row.stage:
            raise RegistryError(
                f"plugin {row.name!r}: the registry says {row.stage}, {row.module} offers it for {offer.stage}"
            )

    def _load_entry_point(self, entry: EntryPoint) -> None:
        origin = f"entry point: {entry.dist.name if entry.dist else entry.value}"
        try:
            module = entry.load()
        except ImportError as error:
            raise UsageError(f"plugin {entry.name!r} ({origin}) cannot be imported: {error}") from error
        self._register(module, entry.value, origin)
        if entry.name not in self._offers:
            raise UsageError(f"{origin} offers no plugin named {entry.name!r}, the entry point's name")

    def _register(self, module: object, name: str, origin: str) -> None:
        if name in self._modules:
            return
        before = self.pm.hook
        self.pm.register(module, name=name)
        self._modules.add(name)
        try:
            self.pm.check_pending()
        except pluggy.PluginValidationError as error:
            raise UsageError(f"{origin}: {error} (hooks: harness plugins hooks)") from error
        for stage in STAGES:
            hook = getattr(before, f"harness_{stage}")
            for impl in hook.get_hookimpls():
                if impl.plugin is module:
                    self._keep(impl.function(), stage, origin)

    def _keep(self, registrations: Iterable[object], stage: Stage, origin: str) -> None:
        for registration in registrations:
            if not isinstance(registration, Registration):
                raise UsageError(
                    f"{origin}: harness_{stage} returned {type(registration).__name__}, not a Registration"
                )
            known = self._offers.get(registration.name)
            if known is not None:
                raise UsageError(f"two plugins are called {registration.name!r}: {known.origin} and {origin}")
            row = self._rows.get(registration.name)
            self._offers[registration.name] = Offer(registration, stage, origin, row.config if row else {})


class _DefaultStep:
    """The host's own way to run a step: just do it."""

    @hookspecs.hookimpl(trylast=True)
    def harness_run_step(self, step: str, stage: str, execute: Callable[[], Any]) -> Any:
        """Run the step."""
        return execute()
