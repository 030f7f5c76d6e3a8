"""What each kind of step does: inputs in, records out. Here and in `interpret` alone do stages meet.

Plugins make the science; this module feeds them and measures what must be measured alike for all of them (features and
exemplars of every source, scores of every dictionary).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from harness.contract.context import RunContext
from harness.contract.executors import Executor, Tool, Workers
from harness.contract.provider import Provider
from harness.contract.stages import Registration
from harness.errors import HarnessError, UsageError
from harness.records import (
    ActivationSet,
    Checkpoint,
    Dictionary,
    Feature,
    Record,
    Trace,
)
from harness.study.manager import Manager
from harness.study.plan import Plan, Step

if TYPE_CHECKING:
    from harness.benchmarks.answerer import Answerer
    from harness.benchmarks.engine import Engines
    from harness.model.subject import Subject

R = TypeVar("R", bound=Record)


class StoredOf(Protocol):
    """Reads what a step stored."""

    def __call__(self, step_name: str, record_class: type[R]) -> list[R]:
        """The step's records of a class, in the order in which they were stored."""


@dataclass
class Workbench:
    """What steps of one run share.

    Attributes:
        plan: the plan.
        manager: loads implementations.
        outputs: step name -> artefact records by type name, also of steps that were done before.
        folders: step name -> its artefact folder.
        stored: the records of a class that a step stored (asked for by steps that read features, explanations or
            benchmark results).
        providers: name -> provider, of those that were asked for.
    """

    plan: Plan
    manager: Manager
    folders: dict[str, Path]
    stored: StoredOf
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    providers: dict[str, Provider] = field(default_factory=dict)
    _traces: list[Trace] | None = None
    _subject: tuple[object, Subject] | None = None
    _engines: Engines | None = None

    def traces(self) -> list[Trace]:
        """The study's traces, read once."""
        if self._traces is None:
            from harness.model.traces import load_traces

            self._traces = load_traces(self.plan.row.data)
        return self._traces

    def documents(self) -> list[Trace]:
        """Those that are read by probes."""
        return self.traces()[: self.plan.row.features.documents]

    def subject(self, checkpoint: Checkpoint | None, device: str) -> Subject:
        """Base and checkpoint, loaded; the last one is kept. A vLLM engine is closed: both do not fit a device."""
        from harness.model.subject import load_subject

        self.engines.close()
        wanted = (checkpoint, device)
        if self._subject is None or self._subject[0] != wanted:
            self._subject = None  # free the last one first: two 32B models do not fit
            self._subject = (wanted, load_subject(self.plan.row.model, self.plan.row.chat, checkpoint, device=device))
        self._subject[1].model.to(device)  # it was set aside if an engine ran meanwhile
        return self._subject[1]

    @property
    def engines(self) -> Engines:
        """Where the run's vLLM engine is kept."""
        if self._engines is None:
            from harness.benchmarks.engine import Engines

            self._engines = Engines(self.plan.row.evaluate, self.plan.row.evaluate.batch_size)
        return self._engines

    def answerer(self, step: Step, device: str) -> Answerer:
        """The variant that an evaluation asks, behind the study's backend."""
        from harness.benchmarks.answerer import InMemory

        row, checkpoint = self.plan.row, self.checkpoint(step)
        if row.evaluate.backend == "hf":
            return InMemory(self.subject(checkpoint, device))
        from harness.benchmarks.served import serve
        from harness.model.lora_folder import read_lora

        self._subject = None  # no weights beside the engine's
        trained = [o["Checkpoint"] for o in self.outputs.values() if "Checkpoint" in o]
        rank = max((read_lora(c.path).rank for c in trained if c.kind == "adapter"), default=1)
        return serve(self.engines, row.model, row.chat, checkpoint, rank=rank)

    def checkpoint(self, step: Step) -> Checkpoint | None:
        """The checkpoint among a step's inputs."""
        return next((self.outputs[i]["Checkpoint"] for i in step.inputs if "Checkpoint" in self.outputs[i]), None)

    def adapter_subject(self, step: Step, device: str) -> Subject:
        """The adapter that the step studies.

        Raises:
            UsageError: the step's trainer made a full model, which has no scalar channels.
        """
        checkpoint = self.checkpoint(step)
        if checkpoint is None or checkpoint.kind != "adapter":
            raise UsageError(f"{step.name} needs an adapter, and {step.inputs[0]} makes a full model")
        return self.subject(checkpoint, device)

    def reading_subject(self, step: Step, device: str) -> Subject:
        """The same, with the format of the text that probes read."""
        subject, chat = self.adapter_subject(step, device), self.plan.row.read_chat
        return subject if chat is None else replace(subject, chat=chat, chat_hash=chat.hash(subject.tokenizer))

    def activations(self, step: Step) -> ActivationSet:
        """The activation set among a step's inputs."""
        found = next(
            (self.outputs[i]["ActivationSet"] for i in step.inputs if "ActivationSet" in self.outputs[i]), None
        )
        if found is None:
            raise HarnessError(f"{step.name}: none of {', '.join(step.inputs)} made an activation set")
        return found

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The loaded model in main memory for the while: the GPUs are others'."""
        subject = self._subject[1] if self._subject else None
        if subject is None:
            yield
            return
        device = subject.device
        subject.place("cpu")
        try:
            yield
        finally:
            subject.place(device)


@dataclass(frozen=True)
class MakingRoom:
    """An executor whose workers find the GPUs free of the run's own model."""

    executor: Executor
    bench: Workbench

    @property
    def on_gpus(self) -> bool:
        """See `Executor`."""
        return self.executor.on_gpus

    @contextmanager
    def open(self, tool: Tool) -> Iterator[Workers[Tool]]:
        """See `Executor`."""
        with self.bench.aside() if self.on_gpus else nullcontext(), self.executor.open(tool) as workers:
            yield workers


def _train(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    trainer = implementation(step, bench)
    yield trainer.train(bench.plan.row.model, bench.traces(), bench.plan.row.chat, run)


def _evaluate(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    from harness.benchmarks.evaluate import evaluate

    config = bench.plan.row.evaluate
    answerer = bench.answerer(step, run.device)
    assert step.variant is not None
    for benchmark in config.benchmarks:
        if f"{step.variant}/{benchmark}" not in run.done:
            yield evaluate(
                answerer,
                benchmark,
                variant=step.variant,
                settings=config,
                seed=run.seed,
                progress=run.progress,
            )


def _probe(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    probe = implementation(step, bench)
    activations = probe.read(bench.reading_subject(step, run.device), bench.documents(), run)
    yield activations
    yield from store_features(activations, bench, run)


def _learn(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    """Fit a dictionary; encode the set and select exemplars where its latents are to be explained."""
    from harness.activations.latents import encode_set
    from harness.activations.store import open_set

    learner = implementation(step, bench)
    activations = bench.activations(step)
    dictionary: Dictionary = learner.fit(activations, run).model_copy(update={"name": step.label})
    yield dictionary
    if _explained(step, bench):
        codec, stored = learner.load(dictionary), open_set(activations)
        latents = encode_set(codec, stored, run.out_dir / "latents", dictionary, executor=run.executor)
        yield latents
        yield from store_features(latents, bench, run)


def _judge(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    """Score a dictionary the way all are scored; switch off single latents where they are to be explained."""
    from harness.activations.store import open_set
    from harness.dictionaries.activity import activity, activity_of_set
    from harness.dictionaries.scoring import score_dictionary, score_latents

    config = bench.plan.row.judging
    learner = implementation(step, bench)
    learned, *read = step.inputs
    dictionary: Dictionary = bench.outputs[learned]["Dictionary"]
    stored = open_set(next(bench.outputs[i]["ActivationSet"] for i in read if "ActivationSet" in bench.outputs[i]))
    codec = learner.load(dictionary)
    latents = bench.outputs[learned].get("ActivationSet")
    active = activity_of_set(open_set(latents)) if latents else activity(codec, stored, dictionary.n_latents)
    subject = bench.reading_subject(step, run.device)
    if "score" not in run.done:
        second = None
        if config.second_fit and _registration(step, bench).fits:
            # This step's seed is not the fit's: it is derived from another name.
            other = learner.fit(stored.set, replace(run, out_dir=run.out_dir / "second-fit"))
            second = (other, learner.load(other))
        yield score_dictionary(
            dictionary, codec, stored, subject, run,
            active=active, second=second, splice_documents=config.splice_documents,
        )  # fmt: skip
    if _explained(step, bench):
        yield from score_latents(
            dictionary, codec, stored, subject, active, run,
            n_latents=config.ablated_latents, max_documents=config.splice_documents,
        )  # fmt: skip


def _explained(step: Step, bench: Workbench) -> bool:
    return bench.plan.row.judging.explains(_registration(step, bench))


def _registration(step: Step, bench: Workbench) -> Registration[Any]:
    assert step.plugin is not None
    return bench.manager.offer(step.plugin).registration


def store_features(activations: ActivationSet, bench: Workbench, run: RunContext) -> Iterator[Feature]:
    """Features with exemplars that are not stored yet: the same selection for every source."""
    from harness.activations.exemplars import collect_features
    from harness.activations.store import open_set

    config = bench.plan.row.features
    features = collect_features(
        open_set(activations),
        k=config.exemplars,
        cap=config.per_document,
        window=config.window,
        sample=config.sampled,
        seed=run.seed,
    )
    yield from (feature for feature in features if feature.item not in run.done)


def _ablate(step: Step, bench: Workbench, run: RunContext) -> Iterator[Record]:
    yield from implementation(step, bench).measure(bench.adapter_subject(step, run.device), bench.documents(), run)


def implementation(step: Step, bench: Workbench) -> Any:
    """The plugin that does the step."""
    assert step.plugin is not None
    return bench.manager.implementation(step.plugin, step.config)


KINDS: dict[str, Callable[[Step, Workbench, RunContext], Iterator[Record]]] = {
    "train": _train,
    "evaluate": _evaluate,
    "probe": _probe,
    "learn": _learn,
    "judge": _judge,
    "ablate": _ablate,
}
"""What is done by plugins of the model's side; `harness.study.interpret` has the rest."""


def provider_for(bench: Workbench) -> Callable[[str], tuple[Provider, str]]:
    """Role -> (provider, model), from the plan. A provider is made once: some hold a model."""
    llms = bench.plan.llms

    def get(role: str) -> tuple[Provider, str]:
        llm = llms.get(role) or llms.get("default")
        if llm is None:
            raise UsageError(
                f"no LLM for the role {role!r}: use --provider NAME:MODEL or set providers in the registry"
            )
        if llm.provider not in bench.providers:
            bench.providers[llm.provider] = bench.manager.implementation(llm.provider, llm.config)
        return bench.providers[llm.provider], llm.model

    return get


def fresh_folder(folder: Path, *, keep: bool) -> Path:
    """A step's folder, emptied unless an interrupted attempt's work in it is to be kept."""
    if folder.exists() and not keep:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
