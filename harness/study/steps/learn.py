"""Fit dictionaries on a probe's activations, and judge all of them in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import NonNegativeInt

from harness.config import Config
from harness.contract.context import RunContext
from harness.contract.stages import Registration
from harness.errors import UsageError
from harness.records import Dictionary, Record
from harness.study import sizes
from harness.study.costs import Cost, CostModel, model_bytes
from harness.study.grid import Cell, cells
from harness.study.planner import Planner, StageSteps, StepKind
from harness.study.state import RunState
from harness.study.step import Step
from harness.study.steps.probe import add_probe, reading_settings, select_features

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


def _plan(planner: Planner) -> None:
    for name in planner.study.dictionaries:
        registration = planner.manager.offer(name).registration
        needs = registration.needs or planner.study.probes[:1]
        if not needs:
            raise UsageError(f"{name!r} reads a probe's activations, and the study has no probe")
        inputs = (*(add_probe(planner, need) for need in needs), planner.adapter)
        planner.refuse_other_stage(name, "learn")
        for cell in cells(planner.manager, name, planner.layers_of(name)):
            _add_cell(planner, registration, cell, inputs)


def _add_cell(planner: Planner, learner: Registration[Any], cell: Cell, inputs: tuple[str, ...]) -> None:
    """The steps that fit a dictionary and judge it. A cell's label is part of what it is called, so of its key."""
    config = planner.study.settings(JudgingConfig)
    label = learner.name + (f"@{cell.label}" if cell.label else "")
    fitting = [learner.version, [*reading_settings(planner), config.explains(learner)], label]
    name, seeded = f"learn/{label}", learner.seeded
    learned = planner.add(name, LEARN, learner.name, cell.config, inputs, fitting, seeded=seeded)
    judging = [learner.version, config.model_dump(exclude={"explain_baselines"})]
    planner.add(f"judge/{label}", JUDGE, learner.name, cell.config, (learned, *inputs), judging)
    planner.sources += [learned] if config.explains(learner) else []


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
    if "score" not in run.done:
        second = None
        if config.second_fit and state.registration(step).fits:
            # This step's seed is not the fit's: it is derived from another name.
            other = learner.fit(stored.set, replace(run, out_dir=run.out_dir / "second-fit"))
            second = (other, learner.load(other))
        yield score_dictionary(
            dictionary, codec, stored, subject, run,
            active=active, second=second, splice_documents=config.splice_documents,
        )  # fmt: skip
    if _explained(step, state):
        yield from score_latents(
            dictionary, codec, stored, subject, active, run,
            n_latents=config.ablated_latents, max_documents=config.splice_documents,
        )  # fmt: skip


def _explained(step: Step, state: RunState) -> bool:
    return state.plan.study.settings(JudgingConfig).explains(state.registration(step))


def _learn_cost(step: Step, model: CostModel) -> Cost:
    config = step.config.model_dump()
    d_in, expansion = model.n_components, int(config.get("expansion") or 1)
    tokens = model.n_tokens * (config.get("epochs") or 1)
    if not config.get("epochs") and config.get("steps"):
        tokens = float(config["steps"]) * float(config.get("batch_size", 512))
    flops = 6.0 * d_in * d_in * expansion * tokens
    explained = step.name in model.plan.sources
    disk_bytes = 6.0 * float(config.get("k") or d_in) * model.n_tokens if explained else 0.0
    return model.if_known(Cost(tokens, flops, sizes.gpu_hours(flops), disk_bytes))


def _n_latents(step: Step, model: CostModel) -> int:
    return model.n_components * int(step.config.model_dump().get("expansion") or 1)


def _judge_cost(step: Step, model: CostModel) -> Cost:
    """Held-out documents, at most `splice_documents`: the adapter, the base and the splice are run on them, and where
    the latents are explained once more each latent that is switched off."""
    config = model.plan.study.settings(JudgingConfig)
    n_documents = min(config.splice_documents, HELD_OUT * model.n_traces)
    tokens = n_documents * model.n_tokens / max(model.n_traces, 1)
    latents = config.ablated_latents + 1 if step.inputs[0] in model.plan.sources else 0
    return model.forward(tokens * (3 + latents))


LEARN = StepKind("learn", "learn", _learn, cost=_learn_cost, n_features=_n_latents, in_worker=True, seeded=False)
JUDGE = StepKind("judge", "learn", _judge, cost=_judge_cost, in_worker=True, memory_bytes=model_bytes)
STEPS = StageSteps((LEARN, JUDGE), _plan, {"judging": JudgingConfig})
