"""The contract: every hook a plugin can implement. Its docstring is the reference.

Registrars offer implementations (one hook per stage); they import neither torch nor a vendor's SDK, since
`Registration.load` says where the implementation is. `harness_run_step` wraps each step. Observers watch, in the
process of the run; one that raises is logged and counted, never fatal. Implementations run last-registered-first.

A module that only wraps or observes is loaded by a row in `observers:` of registry.yaml (`{name: timing, module:
my_package.timing}`) or by an entry point of the group `harness`. One that cannot be imported is left out, and `harness
plugins` and `harness doctor` say why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from harness.contract.provider import Provider
    from harness.contract.report import Report
    from harness.contract.stages import Ablation, DictionaryLearner, Interpreter, Probe, Registration, Trainer
    from harness.records.base import Record

PROJECT = "harness"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of your plugin as an implementation of the hook of the same name."""


@dataclass(frozen=True)
class StepStarted:
    """A step begins. `n_done` items are already stored by an interrupted attempt."""

    step: str
    key: str
    n_done: int


@dataclass(frozen=True)
class StepProgressed:
    """A step stored one more item."""

    step: str
    item: str


@dataclass(frozen=True)
class StepFinished:
    """A step ended. `reason` says why `status` is not `done` but `failed`, `interrupted`, `incomplete` (LLM calls
    failed) or `waiting` (for a vendor's batch). A step that failed in the worker process is `interrupted`, and begins
    again."""

    step: str
    key: str
    status: str
    wall_s: float
    reason: str | None = None


@hookspec
def harness_trainers() -> Sequence[Registration[Trainer]]:
    """Offer trainers: they make a checkpoint (adapter or full model) from a base model and traces."""
    raise NotImplementedError


@hookspec
def harness_probes() -> Sequence[Registration[Probe]]:
    """Offer activation probes: they read features over tokens (adapter components, neurons, random directions)."""
    raise NotImplementedError


@hookspec
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer dictionary learners: they fit latents on an activation set."""
    raise NotImplementedError


@hookspec
def harness_interpreters() -> Sequence[Registration[Interpreter]]:
    """Offer interpreters: they explain, grade and categorise features from their evidence."""
    raise NotImplementedError


@hookspec
def harness_ablations() -> Sequence[Registration[Ablation]]:
    """Offer ablations: they measure what parts of an adapter do by switching them off."""
    raise NotImplementedError


@hookspec
def harness_providers() -> Sequence[Registration[Provider]]:
    """Offer LLM providers: they send one request to one vendor."""
    raise NotImplementedError


@hookspec(firstresult=True)
def harness_run_step(step: str, stage: str, execute: Callable[[], Any]) -> Any:
    """Run one step. The host's own implementation calls `execute()`; wrap it (`hookimpl(wrapper=True)`) to time or
    trace.

    Called in the process that does the step: with `--jobs 2` that may be the worker process, which loads the same
    modules, so pass on what you measure by a file or the console, not by a variable. torchrun's processes and Ray's
    workers do parts of a step; the call returns when they are through.

    :param step: the step's name, e.g. `ablate/leave-one-out`.
    :param stage: the step's stage: train, evaluate, probe, learn, interpret or ablate.
    :param execute: does the work and returns the number of records made.

    Stops at the first result that is not None. What a wrapper raises fails the step.
    """


@hookspec
def harness_step_started(event: StepStarted) -> None:
    """Observe that a step begins.

    :param event: which step, its key, how many of its items are already stored.
    """


@hookspec
def harness_step_progressed(event: StepProgressed) -> None:
    """Observe that a step stored one more item.

    :param event: which step and which item.
    """


@hookspec
def harness_step_finished(event: StepFinished) -> None:
    """Observe that a step ended, well or not.

    :param event: which step, its status, its wall time in seconds and the reason where it failed.
    """


@hookspec
def harness_records() -> Sequence[type[Record]]:
    """Offer classes of records that your plugin's steps yield, beside the harness's own.

    A class has an `item`, a docstring, and one below each field. Its table is named after it (or by `TABLE`) and made
    when a record is first stored, with a view `v_TABLE` that has the run and the step. A field that a later version
    adds becomes a column when it is first used; it needs a default, or may be None. `harness.records_of` reads
    records back.
    """
    raise NotImplementedError


@hookspec
def harness_reports() -> Sequence[Report[Any]]:
    """Offer reports: tables of a run, in `harness report`, its export and the dashboard beside the harness's own.

    Must not import torch.
    """
    raise NotImplementedError
