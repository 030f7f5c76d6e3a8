"""Further adapters on the same base: each is trained, evaluated and read as the adapter is, and all are compared.

They are planned after all other stages, whose steps and keys therefore know nothing of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt

from harness.config import Config
from harness.contract.context import RunContext
from harness.errors import UsageError
from harness.records import ActivationSet, Checkpoint, ModuleOverlap, Record, SharedFeature
from harness.study.costs import model_bytes
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step
from harness.study.steps.evaluate import add_evaluation
from harness.study.steps.probe import PROBE, reading_settings
from harness.study.steps.train import TRAIN, training_settings
from harness.study.study_config import AdapterRow

if TYPE_CHECKING:
    from harness.activations.shared import Best
    from harness.activations.store import StoredActivations
    from harness.model.card import Adapter

SCALARS = "adapter-activations"
"""The probe that reads an adapter's own scalars."""
STUDIED = "adapter"
"""What the study's first adapter is called, as in evaluations."""


class ComparisonConfig(Config):
    """How a study's adapters are compared."""

    max_tokens: PositiveInt = 50_000
    """Tokens that scalars are correlated over: whole documents, in order."""
    shuffles: int = Field(default=99, ge=19)
    """Shuffles that correlations are held against; no p-value is below 1 / (shuffles + 1)."""


def _plan(planner: Planner) -> None:
    study = planner.study
    if not study.adapters:
        return
    reads = SCALARS in study.probes
    names, trained = [STUDIED], [planner.adapter]
    read = [f"{PROBE.name}/{SCALARS}"] if reads else []
    for row in study.adapters:
        names.append(row.name)
        trained.append(_train(planner, row))
        add_evaluation(planner, row.name, trained[-1])
        if reads:
            read.append(_read(planner, row, trained[-1]))
    control = planner.controls.get(SCALARS)
    read += [f"{PROBE.name}/{control}"] if reads and control is not None else []
    config = study.settings(ComparisonConfig)
    planner.add("compare/adapters", COMPARE, None, config, (*trained, *read), ["1", names])


def _train(planner: Planner, row: AdapterRow) -> str:
    """The step that trains a further adapter. Its name is part of its key: two of the same settings have two seeds.

    Raises:
        UnknownName: no such trainer.
        UsageError: its name is something else's.
    """
    planner.refuse_other_stage(row.trainer, TRAIN.stage)
    taken = [*planner.manager.names(), *type(planner.study).model_fields, STUDIED, "base", "full"]
    first = row.name in (planner.study.adapter, planner.study.reference)
    if first or (row.name != row.trainer and row.name in taken):
        raise UsageError(f"an adapter cannot be called {row.name!r}: something else has that name; give it another")
    config, trainer = (
        planner.config_of(TRAIN.stage, row.trainer, row.name),
        planner.manager.offer(row.trainer).registration,
    )
    settings = [trainer.version, training_settings(planner), row.name]
    return planner.add(f"{TRAIN.name}/{row.name}", TRAIN, row.trainer, config, (), settings, seeded=trainer.seeded)


def _read(planner: Planner, row: AdapterRow, trained: str) -> str:
    """The step that reads its scalars, as those of the study's first adapter are read."""
    config, probe = planner.config(PROBE, SCALARS), planner.manager.offer(SCALARS).registration
    settings = [probe.version, reading_settings(planner), row.name]
    name = f"{PROBE.name}/{row.name}"
    return planner.add(name, PROBE, SCALARS, config, (trained,), settings, row.name, seeded=probe.seeded)


@dataclass(frozen=True)
class _Compared:
    """An adapter under its name, with its scalars where they are read."""

    name: str
    adapter: Adapter
    scalars: StoredActivations | None


def _execute(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    from harness.activations.store import open_set
    from harness.model.card import Adapter

    names = [STUDIED, *(row.name for row in state.plan.study.adapters)]
    sets: list[ActivationSet] = [o["ActivationSet"] for i in step.inputs if "ActivationSet" in (o := state.outputs[i])]
    scalars = [open_set(s) for s in sets]
    adapters: list[_Compared] = []
    for name, i in zip(names, step.inputs, strict=False):
        checkpoint: Checkpoint = state.outputs[i]["Checkpoint"]
        if checkpoint.kind != "adapter":
            raise UsageError(f"{i} makes a full model, and only adapters are compared: take it out of the study's list")
        adapter = Adapter.of(state.subject(checkpoint, run.device))
        adapters.append(_Compared(name, adapter, scalars[len(adapters)] if scalars else None))
    control = scalars[-1] if len(scalars) > len(names) else None
    pairs = list(itertools.combinations(adapters, 2))
    run.progress.start(step.config.model_dump()["shuffles"] * len(pairs), "shuffles")
    for number, (first, second) in enumerate(pairs):
        found: Iterator[ModuleOverlap | SharedFeature] = itertools.chain(
            _weights(first, second), _features(first, second, control, step, run, number)
        )
        yield from (record for record in found if record.item not in run.done)


def _weights(first: _Compared, second: _Compared) -> Iterator[ModuleOverlap]:
    """The modules that two adapters share; none where they adapt none in common."""
    from harness.model.card import compared

    of_module = {c.module: c for c in first.adapter.components}
    if not of_module.keys() & second.adapter.modules().keys():
        return
    for row in compared(first.adapter, second.adapter):
        yield ModuleOverlap(
            item=f"{first.name}>{second.name}/{row.module}",
            first=first.name,
            second=second.name,
            layer=of_module[row.module].layer,
            projection=of_module[row.module].projection,
            **vars(row),
        )


def _features(
    first: _Compared, second: _Compared, control: StoredActivations | None, step: Step, run: RunContext, number: int
) -> Iterator[SharedFeature]:
    """The components of each of the two, with their best partner in the other."""
    from harness.activations.shared import best_partners, largest_correlations, rows_of

    if first.scalars is None or second.scalars is None:
        return
    config = ComparisonConfig.model_validate(step.config.model_dump())
    rows = rows_of([first.scalars, second.scalars, *([control] if control else [])], config.max_tokens)
    values = rows.values[0], rows.values[1]
    rng = np.random.default_rng([run.seed, number])
    both = best_partners(*values, rows.lengths, config.shuffles, rng, run.progress)
    for (one, other), best, scalars in zip(((first, second), (second, first)), both, values, strict=True):
        random = largest_correlations(scalars, rows.values[2]) if control else None
        shared = {
            "n_random": len(control.columns) if control else 0, "n_shuffles": config.shuffles,
            "n_tokens": sum(rows.lengths), "n_documents": len(rows.lengths),
        }  # fmt: skip
        yield from _records(one, other, best, random, shared)


def _records(
    first: _Compared, second: _Compared, best: Best, random: np.ndarray | None, shared: dict[str, int]
) -> Iterator[SharedFeature]:
    assert first.scalars is not None
    assert second.scalars is not None
    candidates, of = second.scalars.columns, first.scalars.set
    for i, component in enumerate(of.columns):
        constant = bool(np.isnan(best.correlation[i]))
        yield SharedFeature(
            item=f"{first.name}>{second.name}/{component}",
            first=first.name,
            second=second.name,
            component=component,
            layer=of.layers[i],
            projection=of.projections[i],
            partner=None if constant else candidates[best.partner[i]],
            correlation=None if constant else float(best.correlation[i]),
            shuffled=float(best.shuffled[i]),
            p_value=None if constant else float(best.p_value[i]),
            random=None if random is None else float(random[i]),
            n_candidates=len(candidates),
            reason="its scalar is the same on every token" if constant else None,
            **shared,
        )


COMPARE = StepKind("compare", "ablate", _execute, in_worker=True, memory_bytes=model_bytes)
STEPS = StageSteps((COMPARE,), _plan, {"comparison": ComparisonConfig})
