"""The manager: pluggy with a typed face.

It imports the plugins that are asked for, observers and installed packages; checks what they return; refuses
duplicates; and gives observers a safe place: one that raises is logged and counted, never fatal.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import pluggy

from harness.config import Config
from harness.contract import hooks as hookspecs
from harness.contract.report import Report
from harness.contract.stages import PLURALS, Registration, Stage
from harness.errors import HarnessError, RegistryError, UnknownName, UsageError
from harness.records.base import Record
from harness.study.registry_file import ENTRY_POINT_GROUP
from harness.study.study_config import PluginList

_REGISTRARS = {f"harness_{plural}": stage for stage, plural in PLURALS.items()}
"""Hook that offers plugins -> their stage."""
_OFFERS = {*_REGISTRARS, "harness_records", "harness_reports"}
"""Hooks that offer something; the others observe or wrap."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A plugin that is there: what it registered, and where it came from."""

    registration: Registration[Any]
    stage: Stage
    origin: str
    row_config: Mapping[str, Any]


@dataclass(frozen=True)
class Observer:
    """A loaded module that observes or wraps steps: its name, the hooks it implements, and where it came from."""

    name: str
    hooks: tuple[str, ...]
    origin: str


class Manager:
    """Loads plugins by name and hands out what they offer.

    Attributes:
        registry: the registry that names plugins and observers.
        pm: pluggy's manager.
        broken: name -> why it is left out: observers and installed packages, after `load_all` plugins too.
        observer_failures: how often an observer raised.
    """

    def __init__(self, registry: PluginList) -> None:
        """Load the observers and the installed packages; plugins of the registry are loaded when they are asked for."""
        self.registry = registry
        self._rows = {row.name: row for row in registry.plugins}
        self._offers: dict[str, Offer] = {}
        self._origins: dict[object, tuple[str, str]] = {}
        self.pm = pluggy.PluginManager(hookspecs.PROJECT)
        self.pm.add_hookspecs(hookspecs)
        self.pm.register(_DefaultStep())
        self.broken: dict[str, str] = {}
        self.observer_failures = 0
        for observer in registry.observers:
            load = partial(importlib.import_module, observer.module)
            self._try(observer.name, partial(self._load, observer.name, load, f"registry: {observer.module}"))
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            row = self._rows.get(entry.name)
            if row is None or row.module == entry.value:  # else the registry's plugin of that name takes its place
                origin = f"entry point: {entry.dist.name if entry.dist else entry.value}"
                self._try(entry.name, partial(self._load, entry.name, entry.load, origin))
        self._installed = sorted(name for name in self._offers if name not in self._rows)

    def names(self) -> list[str]:
        """Names of the registry's plugins, and of those in installed packages."""
        return [*self._rows, *self._installed]

    def loaded(self) -> list[str]:
        """Names of the plugins whose modules are loaded: another process loads the same to have the same wrappers."""
        return list(self._offers)

    def observers(self) -> list[Observer]:
        """The loaded modules that observe or wrap steps."""
        observers = []
        for module, (name, origin) in self._origins.items():
            callers = self.pm.get_hookcallers(module) or ()
            hooks = tuple(caller.name for caller in callers if caller.name not in _OFFERS)
            observers += [Observer(name, hooks, origin)] if hooks else []
        return observers

    def stage_of(self, name: str) -> Stage:
        """The stage of a plugin."""
        row = self._rows.get(name)
        return row.stage if row else self.offer(name).stage

    def offer(self, name: str) -> Offer:
        """Import the plugin of that name, if it is not yet, and return what it offers.

        Raises:
            UnknownName: no such plugin.
            RegistryError: its module offers no plugin of that name, or for another stage.
            UsageError: its module cannot be loaded.
        """
        row = self._rows.get(name)
        if name not in self._offers:
            if row is None and name in self.broken:
                raise UsageError(self.broken[name])
            if row is None:
                raise UnknownName("plugin", name, self.names(), hint="list: harness plugins")
            self._load(name, partial(importlib.import_module, row.module), f"registry: {row.module}")
        offer = self._offers.get(name)
        if offer is None:
            raise RegistryError(f"plugin {name!r}: {row and row.module} offers no plugin of that name")
        if row is not None and offer.stage != row.stage:
            raise RegistryError(
                f"plugin {name!r}: the registry says {row.stage}, {row.module} offers it for {offer.stage}"
            )
        return offer

    def load_all(self) -> list[Offer]:
        """Every plugin, for listings. Those that cannot be loaded are in `broken`."""
        return [self._offers[name] for name in self.names() if self._try(name, partial(self.offer, name))]

    def records(self, *, load: bool = True) -> list[type[Record]]:
        """The classes of records that plugins bring; of those that are loaded where `load` is off.

        A plugin that cannot be loaded is left out (see `broken`).

        Raises:
            UsageError: what is offered cannot be stored, or two have the same table.
        """
        from harness.store.schema import METADATA, table_of

        if load:
            self.load_all()
        owner_of = dict.fromkeys(METADATA.tables, "the harness")
        classes: list[type[Record]] = []
        for implementation in self.pm.hook.harness_records.get_hookimpls():
            offered: Any = implementation.function()
            for record in offered:
                try:
                    tables = table_of(record).tables()
                except TypeError as error:
                    raise UsageError(f"{implementation.plugin_name}: harness_records: {error}") from error
                for table in tables:
                    if table in owner_of:
                        owners = f"{owner_of[table]} and {implementation.plugin_name}"
                        raise UsageError(f"two records have the table {table!r}, of {owners}: set TABLE of one of them")
                    owner_of[table] = implementation.plugin_name
                classes.append(record)
        return classes

    def reports(self) -> list[Report[Any]]:
        """The reports that plugins bring. All are loaded but the harness's own, which bring none; see `broken`.

        Raises:
            UsageError: a plugin offers something else as a report.
        """
        for name, row in self._rows.items():  # installed packages and observers are loaded already
            if not row.module.startswith("harness_plugins."):
                self._try(name, partial(self.offer, name))
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
        return self.offer(name).registration.implementation()(config)

    def run_step(self, step: str, stage: str, execute: Callable[[], int]) -> None:
        """Do a step's work, inside the wrappers of the loaded modules."""
        self.pm.hook.harness_run_step(step=step, stage=stage, execute=execute)

    def notify(self, observe: Callable[..., Any], event: object) -> None:
        """Call the observers of an event. What they raise is logged and counted."""
        try:
            observe(event=event)
        except Exception:  # noqa: BLE001 - observers are strangers; the run is not theirs to end
            self.observer_failures += 1
            _log.exception("an observer of %s failed", type(event).__name__)

    def _try(self, name: str, load: Callable[[], object]) -> bool:
        """Whether loading worked; `broken` says why it did not."""
        try:
            load()
        except HarnessError as error:
            self.broken[name] = str(error)
            return False
        return True

    def _load(self, name: str, load: Callable[[], object], origin: str) -> None:
        """Import a module and register it: wholly, or not at all.

        Raises:
            UsageError: the import fails, or the module does not keep the contract.
        """
        module, offers = None, dict(self._offers)
        try:
            module = load()
            if self.pm.is_registered(module):
                return
            self.pm.register(module)
            self.pm.check_pending()
            if not self.pm.get_hookcallers(module):
                raise UsageError("it implements no hook (list: harness plugins hooks)")
            for offer in self._offered(module, origin):
                taken = offers.setdefault(offer.registration.name, offer)
                if taken is not offer:
                    raise UsageError(f"two plugins are called {offer.registration.name!r}: {taken.origin} and {origin}")
        except (Exception, SystemExit) as error:
            if module is not None and self.pm.is_registered(module):
                self.pm.unregister(module)
            why = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            if isinstance(error, ModuleNotFoundError):
                why = f"no module {error.name!r}; install the package or correct the name"
            raise UsageError(f"{name!r} ({origin}) cannot be loaded: {why}") from error
        self._offers = offers
        self._origins[module] = name, origin

    def _offered(self, module: object, origin: str) -> Iterator[Offer]:
        """What a registered module offers.

        Raises:
            UsageError: a hook returns something else.
        """
        for hook, stage in _REGISTRARS.items():
            for implementation in getattr(self.pm.hook, hook).get_hookimpls():
                for registration in implementation.function() if implementation.plugin is module else ():
                    if not isinstance(registration, Registration):
                        raise UsageError(f"{hook} returned {type(registration).__name__}, not a Registration")
                    row = self._rows.get(registration.name)
                    yield Offer(registration, stage, origin, row.config if row else {})


class _DefaultStep:
    """The host's own way to run a step."""

    @hookspecs.hookimpl(trylast=True)
    def harness_run_step(self, step: str, stage: str, execute: Callable[[], Any]) -> Any:
        """Do the work."""
        return execute()
