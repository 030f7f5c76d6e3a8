"""Read features over tokens with probes. Features and exemplars are selected in the same way for every source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.config import Config
from harness.contract.context import RunContext
from harness.model.chat import WRITTEN, Written
from harness.records import ActivationSet, Feature, Record, Trace
from harness.study import sizes
from harness.study.costs import Cost, CostModel, model_bytes, total
from harness.study.machine import EXEMPLAR_S
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step


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
    activations = probe.read(subject, documents(state), run)
    yield activations
    yield from select_features(activations, state, run)


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
    tokens = read_tokens(model)
    dtype = step.config.model_dump().get("dtype", "float16")
    read = model.forward(tokens, sizes.activation_bytes(n_columns(step, model), tokens, dtype))
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
    n_features=lambda step, model: 2 * n_columns(step, model),  # both signs
)  # fmt: skip
STEPS = StageSteps((PROBE,), _plan, {"features": FeaturesConfig})
