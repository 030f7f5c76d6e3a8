"""The kinds of step: one module per stage, each with its settings, its steps, what they do and what they cost.

Every module of this folder declares `STEPS`, a `StageSteps`: lying here is all it takes.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from functools import cache

from harness.config import Config
from harness.contract.stages import STAGES
from harness.study.costs import Cost, CostModel
from harness.study.machine import PROCESS_BYTES, STEP_S
from harness.study.planner import StageSteps, StepKind
from harness.study.step import Plan, Step


@cache
def declared() -> tuple[StageSteps, ...]:
    """What the modules declare, in the order of the stages."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules: list[StageSteps] = [importlib.import_module(f"{__name__}.{name}").STEPS for name in names]
    return tuple(sorted(modules, key=lambda steps: STAGES.index(steps.kinds[0].stage)))


@cache
def kinds() -> dict[str, StepKind]:
    """Name -> kind of step."""
    return {kind.name: kind for steps in declared() for kind in steps.kinds}


def kind_of(step: Step) -> StepKind:
    """The step's kind."""
    return kinds()[step.kind]


def estimate(plan: Plan, model: CostModel | None = None) -> dict[str, Cost]:
    """Step name -> what the step will cost, without loading a model; `model` where it is made already.

    Raises:
        DataError: the traces cannot be read, and `known_sizes.yaml` does not name them.
    """
    model = model or CostModel.of(plan)
    return {step.name: _estimate(step, model) for step in plan.steps}


def _estimate(step: Step, model: CostModel) -> Cost:
    kind = kind_of(step)
    cost = kind.cost(step, model)
    weights = kind.memory_bytes(step, model.plan, model.size) if kind.memory_bytes and model.size else 0.0
    return replace(
        cost,
        other_s=STEP_S + cost.other_s,
        memory_bytes=PROCESS_BYTES + weights + cost.memory_bytes,
    )


def sections() -> dict[str, type[Config]]:
    """Name -> settings of a study that the stages declare."""
    return {name: section for steps in declared() for name, section in steps.sections.items()}
