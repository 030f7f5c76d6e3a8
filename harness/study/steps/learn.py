"""Fit dictionaries on a probe's activations, and judge all of them in the same way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import NonNegativeInt

from harness.config import Config
from harness.contract.context import RunContext
from harness.contract.stages import Registration
from harness.errors import UnknownName, UsageError
from harness.records import PLANTED, Dictionary, Record
from harness.study import sizes
from harness.study.costs import Cost, CostModel, model_bytes, total
from harness.study.grid import cells
from harness.study.machine import FIT_SHARE, cpu_flops
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Plan, Step
from harness.study.steps.probe import (
    add_probe,
    n_columns,
    read_tokens,
    reading_settings,
    select_features,
    with_exemplars,
)
from harness.study.study_config import DictionaryRow

HELD_OUT = 0.1
"""Share of the documents that dictionaries are judged on."""


class JudgingConfig(Config):
    """How dictionaries are judged, the same for all of them."""

    splice_documents: NonNegativeInt = 64
    """Held-out documents run through the model with the scalars replaced; 0 leaves the KLs out."""
    ablated_latents: NonNegativeInt = 16
    """Most active latents of each learned dictionary that are switched off one by one; 0 leaves that out."""
    second_fit: bool = True
    """Fit once more with another seed, for the stability."""
    explain_baselines: bool = False
    """Exemplars, interpretation and single latents switched off for baselines (pca, random-dictionary, ...), too."""

    def explains(self, learner: Registration[Any]) -> bool:
        """Whether a learner's latents are features to explain."""
        return self.explain_baselines or not learner.baseline


class Fitted(NamedTuple):
    """A dictionary of the plan: what it is called, who fits it with which settings, and on what."""

    label: str
    learner: str
    config: Config
    on: tuple[str, ...]


def _plan(planner: Planner) -> None:
    planned = [fitted for row in planner.study.dictionaries for fitted in _plan_row(planner, row)]
    for control, fitted in itertools.product(planned, planned):
        expected = tuple(planner.controls.get(probe, "") for probe in fitted.on)
        if (control.learner, control.config, control.on) == (fitted.learner, fitted.config, expected):
            planner.controls.setdefault(fitted.label, control.label)


def _plan_row(planner: Planner, row: DictionaryRow) -> list[Fitted]:
    """The steps of a dictionary, of each cell where its settings make a grid.

    Raises:
        UnknownName: no such learner, or the study has no such probe.
        UsageError: its name is another plugin's, or there is nothing that it could be fitted on.
    """
    planner.refuse_other_stage(row.learner, "learn")
    learner, probes = planner.manager.offer(row.learner).registration, planner.study.probes
    if row.name != row.learner and row.name in (*planner.manager.names(), *type(planner.study).model_fields, PLANTED):
        raise UsageError(f"a dictionary cannot be called {row.name!r}: something else has that name; give it another")
    if row.on is not None and row.on not in probes:
        raise UnknownName(
            f"probe of this study for {row.name!r}", row.on, probes, hint="add it to the study's probes, or change `on`"
        )
    on = (row.on,) if row.on is not None else learner.needs or probes[:1]
    if not on:
        raise UsageError(f"{row.name!r} reads a probe's activations, and the study has no probe")
    inputs = (*(add_probe(planner, probe) for probe in on), planner.adapter)
    planned = []
    for cell in cells(planner.manager, row.learner, planner.layers_of(row.learner, row.name)):
        label = row.name + (f"@{cell.label}" if cell.label else "")
        _add_cell(planner, learner, label, cell.config, inputs)
        planned.append(Fitted(label, row.learner, cell.config, on))
    return planned


def _add_cell(
    planner: Planner, learner: Registration[Any], label: str, config: Config, inputs: tuple[str, ...]
) -> None:
    """The steps that fit a dictionary and judge it. Its label is what it is called, so part of its key."""
    judging = planner.study.settings(JudgingConfig)
    fitting = [learner.version, [*reading_settings(planner), judging.explains(learner)], label]
    learned = planner.add(f"learn/{label}", LEARN, learner.name, config, inputs, fitting, seeded=learner.seeded)
    settings = [learner.version, judging.model_dump(exclude={"explain_baselines"})]
    planner.add(f"judge/{label}", JUDGE, learner.name, config, (learned, *inputs), settings)
    planner.sources += [learned] if judging.explains(learner) else []


def _learn(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    """Fit a dictionary; encode the set and select exemplars where its latents are to be explained."""
    from harness.activations.latents import encode_set
    from harness.activations.store import open_set

    learner = state.implementation(step)
    activations = state.activations(step)
    dictionary: Dictionary = learner.fit(activations, run).model_copy(update={"name": step.label})
    yield dictionary
    if _explained(step, state):
        codec, stored = learner.load(dictionary), open_set(activations)
        latents = encode_set(codec, stored, run.out_dir / "latents", dictionary, executor=run.executor)
        yield latents
        yield from select_features(latents, state, run)


def _judge(step: Step, state: RunState, run: RunContext) -> Iterator[Record]:
    """Score a dictionary the way all are scored; switch off single latents where they are to be explained."""
    from harness.activations.store import open_set
    from harness.dictionaries.activity import activity, activity_of_set
    from harness.dictionaries.scoring import score_dictionary, score_latents

    config = state.plan.study.settings(JudgingConfig)
    learner = state.implementation(step)
    learned, *read = step.inputs
    dictionary: Dictionary = state.outputs[learned]["Dictionary"]
    stored = open_set(next(state.outputs[i]["ActivationSet"] for i in read if "ActivationSet" in state.outputs[i]))
    codec = learner.load(dictionary)
    latents = state.outputs[learned].get("ActivationSet")
    active = activity_of_set(open_set(latents)) if latents else activity(codec, stored, dictionary.n_latents)
    subject = state.reading_subject(step, run.device)
    runs = state.own_runs(subject)
    if "score" not in run.done:
        second = None
        if config.second_fit and state.registration(step).fits:
            # This step's seed is not the fit's: it is derived from another name.
            other = learner.fit(stored.set, replace(run, out_dir=run.out_dir / "second-fit"))
            second = (other, learner.load(other))
        yield score_dictionary(
            dictionary, codec, stored, subject, run,
            active=active, second=second, splice_documents=config.splice_documents, runs=runs,
        )  # fmt: skip
    if _explained(step, state):
        yield from score_latents(
            dictionary, codec, stored, subject, active, run,
            n_latents=config.ablated_latents, max_documents=config.splice_documents, runs=runs,
        )  # fmt: skip


def _explained(step: Step, state: RunState) -> bool:
    return state.plan.study.settings(JudgingConfig).explains(state.registration(step))


def _fit_cost(step: Step, model: CostModel) -> Cost:
    config = step.config.model_dump()
    d_in, expansion = _d_in(step, model), int(config.get("expansion") or 1)
    tokens = read_tokens(model) * (config.get("epochs") or 1)
    if not config.get("epochs") and config.get("steps"):
        tokens = float(config["steps"]) * float(config.get("batch_size", 512))
    flops = 6.0 * d_in * d_in * expansion * tokens * (int(config.get("max_iterations") or 1) + 1) / 2
    work = cpu_flops(flops, flops, d_in) * FIT_SHARE
    return model.if_known(Cost(tokens, flops, sizes.gpu_hours(flops), work))


def _learn_cost(step: Step, model: CostModel) -> Cost:
    config = step.config.model_dump()
    d_in = _d_in(step, model)
    explained = step.name in model.plan.sources
    disk_bytes = 6.0 * float(config.get("k") or d_in) * read_tokens(model) if explained else 0.0
    fitted = replace(_fit_cost(step, model), disk_bytes=disk_bytes)
    return with_exemplars(fitted, _n_latents(step, model), model) if explained else fitted


def _d_in(step: Step, model: CostModel) -> int:
    """Columns of what a dictionary is fitted on."""
    probes = (model.plan.step(name) for name in step.inputs)
    return next((n_columns(probe, model) for probe in probes if probe.stage == "probe"), model.n_components)


def _n_latents(step: Step, model: CostModel) -> int:
    return _d_in(step, model) * int(step.config.model_dump().get("expansion") or 1)


def _judge_cost(step: Step, model: CostModel) -> Cost:
    """Held-out documents, at most `splice_documents`: the adapter, the base and the splice are run on them, and where
    the latents are explained each latent that is switched off. Adapter and base are run for the first judge alone."""
    config = model.plan.study.settings(JudgingConfig)
    n_documents = min(config.splice_documents, HELD_OUT * model.n_traces)
    tokens = n_documents * model.n_tokens / max(model.n_traces, 1)
    latents = config.ablated_latents if step.inputs[0] in model.plan.sources else 0
    own = 2 if step == next(s for s in model.plan.steps if s.kind == step.kind) else 0
    passes = model.forward(tokens * (own + 1 + latents))
    # A learner without settings of its own fitting costs next to nothing to fit once more.
    return total([passes, replace(_fit_cost(step, model), tokens=0.0)]) if config.second_fit else passes


def check_dictionaries(plan: Plan, dry_run: bool) -> None:
    """Refuse dictionaries that cannot be fitted, before the training that precedes them.

    Raises:
        UsageError: more latents per token than latents, or more latents than tokens that probes read.
    """
    model = CostModel.of(plan)
    trained = next((step for step in plan.steps if step.kind == "train" and step.plugin == plan.study.adapter), None)
    if trained is None or "rank" not in trained.config.model_dump():
        return  # an adapter from elsewhere: its components are counted when it is loaded
    for step in (step for step in plan.steps if step.kind == LEARN.name and model.size):
        k, n_latents, name = step.config.model_dump().get("k"), _n_latents(step, model), step.label.partition("@")[0]
        if k is None:
            continue
        if k > n_latents:
            raise UsageError(f"{name}.k={k}: there are {n_latents} latents; --set {name}.k={n_latents} or lower")
        n_tokens = read_tokens(model)
        if model.counted and n_tokens < n_latents:
            expansion = step.config.model_dump().get("expansion", 1)
            smaller = int(n_tokens * (1 - HELD_OUT)) * expansion // n_latents
            cure = f"--set {name}.expansion={smaller}, or " if smaller else ""
            raise UsageError(
                f"{name} would have {n_latents} latents, and probes read {n_tokens:,.0f} tokens: {cure}read more "
                "traces (data.limit, features.documents)"
            )


LEARN = StepKind(
    "learn", "learn", _learn, cost=_learn_cost, n_features=_n_latents, in_worker=True, seeded=False,
    checks=(check_dictionaries,),
)  # fmt: skip
JUDGE = StepKind("judge", "learn", _judge, cost=_judge_cost, in_worker=True, memory_bytes=model_bytes)
STEPS = StageSteps((LEARN, JUDGE), _plan, {"judging": JudgingConfig})
