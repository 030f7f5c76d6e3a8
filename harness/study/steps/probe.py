"""Read features over tokens with probes. Features and exemplars are selected in the same way for every source."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.config import Config
from harness.contract.context import RunContext
from harness.errors import HarnessError
from harness.model.chat import WRITTEN, Written
from harness.records import ActivationSet, Feature, Record, Trace
from harness.study import sizes
from harness.study.costs import Cost, CostModel, model_bytes, total
from harness.study.machine import EXEMPLAR_S
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step

if TYPE_CHECKING:
    from harness.activations.capture import SharesPass
    from harness.model.subject import Subject

_log = logging.getLogger(__name__)


class FeaturesConfig(Config):
    """Which tokens are read and which exemplars are stored, the same for every source of features."""

    documents: PositiveInt | None = None
    """First n traces; None is all."""
    exemplars: PositiveInt = 64
    """Highest activations stored per feature and polarity (the paper's 64)."""
    per_document: PositiveInt = 4
    """At most this many exemplars from one document."""
    sampled: NonNegativeInt = 20
    """Contexts per feature drawn uniformly over the quantiles of its active tokens, for scorers; 0 for none."""
    window: PositiveInt = 12
    """Tokens shown on each side of an exemplar."""
    segments: tuple[Written, ...] = Field(WRITTEN, min_length=1)
    """Whose tokens are ranked, counted, fitted and tested: what was written as question, trace or answer. Tokens of the
    chat template (system prompt, headers, marks, `Answer: `) never are; contexts show them."""


def _plan(planner: Planner) -> None:
    planner.sources += [add_probe(planner, name) for name in planner.study.probes]
    for name in planner.study.probes:
        controlled = planner.manager.offer(name).registration.control_of
        if controlled in planner.study.probes:
            planner.controls.setdefault(controlled, name)


def add_probe(planner: Planner, name: str) -> str:
    """Add the step of a probe; returns its name. Asked for twice, it is one step."""
    inputs = () if planner.config(PROBE, name).on_base() else (planner.adapter,)
    return planner.plugin(PROBE, name, inputs, reading_settings(planner))


def reading_settings(planner: Planner) -> list[object]:
    """What a key says of the text that probes read."""
    other = planner.study.read_chat.model_dump() if planner.study.read_chat else None
    return [planner.data, planner.study.settings(FeaturesConfig).model_dump(), *([other] if other else [])]


def documents(state: RunState) -> list[Trace]:
    """The traces that are read by probes."""
    return state.traces()[: state.plan.study.settings(FeaturesConfig).documents]


def _execute(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    probe = state.implementation(step)
    segments = state.plan.study.settings(FeaturesConfig).segments
    subject = replace(state.reading_subject(step, run.device), ranked=segments)
    _capture_companions(step, probe, subject, state, run)
    activations = probe.read(subject, documents(state), run)
    if step.variant is not None:  # of a further adapter, by whose name its features are known
        activations = activations.model_copy(update={"source": step.variant})
    yield activations
    yield from select_features(activations, state, run)


def _capture_companions(step: Step, probe: SharesPass, subject: Subject, state: RunState, run: RunContext) -> None:
    """Capture this step's set and, in the same pass, those of its companions, each into its own step's folder.

    The steps go on from there as from an attempt that was interrupted. What one set cannot hold is no fault of the
    others: then each is read alone.
    """
    from harness.activations.capture import capture_together

    companions = [state.plan.step(name) for name in state.companions.get(step.name, ())]
    if not companions:
        return
    captures = [probe.capture(subject, run)]
    try:
        for other in companions:
            context = replace(run, out_dir=state.folders[other.name], seed=other.seed)
            captures.append(state.implementation(other).capture(subject, context))
        capture_together(subject, documents(state), captures, run)
    except HarnessError as error:
        names = ", ".join(other.name for other in companions)
        _log.warning("%s is read without %s, whose pass it could not share: %s", step.name, names, error)


def _shared_pass(step: Step) -> Hashable | None:
    """The pass that a probe makes; probes with the same one are companions."""
    settings = step.config.shared_pass()
    return None if settings is None else (step.inputs, *settings)


def select_features(activations: ActivationSet, state: RunState, run: RunContext) -> Iterator[Feature]:
    """Features with their exemplars that are not stored yet: the same selection for every source."""
    from harness.activations.exemplars import collect_features
    from harness.activations.store import open_set

    config = state.plan.study.settings(FeaturesConfig)
    features = collect_features(
        open_set(activations),
        k=config.exemplars,
        cap=config.per_document,
        window=config.window,
        sample=config.sampled,
        seed=run.seed,
    )
    yield from (feature for feature in features if feature.item not in run.done)


def _cost(step: Step, model: CostModel) -> Cost:
    """The first of the plan's probes that share a pass pays for it, also where it alone is done."""
    tokens = read_tokens(model)
    dtype = step.config.model_dump().get("dtype", "float16")
    shared, probes = _shared_pass(step), (s for s in model.plan.steps if s.kind == step.kind)
    first = shared is None or step == next(s for s in probes if _shared_pass(s) == shared)
    read = model.forward(tokens if first else 0.0, sizes.activation_bytes(n_columns(step, model), tokens, dtype))
    return with_exemplars(read, 2 * n_columns(step, model), model)


def read_tokens(model: CostModel) -> float:
    """Tokens of the documents that probes read."""
    return sum(model.lengths[: model.plan.study.settings(FeaturesConfig).documents])


def with_exemplars(cost: Cost, n_features: int, model: CostModel) -> Cost:
    """A cost, with that of finding the features' contexts and of storing them in results.db."""
    config = model.plan.study.settings(FeaturesConfig)
    n_bytes = (config.exemplars + config.sampled) * (2 * config.window + 1) * sizes.CONTEXT_TOKEN_BYTES
    return total([cost, Cost(other_s=n_features * EXEMPLAR_S, disk_bytes=n_features * n_bytes)])


def n_columns(step: Step, model: CostModel) -> int:
    """Columns of the activation set that a probe makes."""
    per_layer = step.config.model_dump().get("n_per_layer")
    return int(per_layer) * model.n_layers if per_layer else model.n_components


PROBE = StepKind(
    "probe", "probe", _execute, cost=_cost, in_worker=True, on_executor=True, seeded=False, memory_bytes=model_bytes,
    shared_pass=_shared_pass, n_features=lambda step, model: 2 * n_columns(step, model),  # both signs
)  # fmt: skip
STEPS = StageSteps((PROBE,), _plan, {"features": FeaturesConfig})
