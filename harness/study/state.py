"""What the steps of one run share: outputs, traces, the loaded model, providers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from harness.contract.codec import Codec
from harness.contract.context import Made
from harness.contract.executors import Executor, Tool, Workers
from harness.contract.provider import Provider
from harness.contract.settings import EvaluateConfig
from harness.contract.stages import Registration
from harness.errors import HarnessError, UsageError
from harness.records import ActivationSet, Checkpoint, Dictionary, Record, Trace
from harness.study.artefacts import ARTEFACTS
from harness.study.examples import study_traces
from harness.study.manager import Manager
from harness.study.step import Plan, Step

if TYPE_CHECKING:
    from harness.benchmarks.answerer import Answerer
    from harness.benchmarks.engine import Engines
    from harness.model.own_runs import OwnRuns
    from harness.model.subject import Subject

R = TypeVar("R", bound=Record)


class StoredOf(Protocol):
    """Reads what a step stored."""

    def __call__(self, step_name: str, record_class: type[R]) -> list[R]:
        """The step's records of a class, in the order in which they were stored."""
        ...


@dataclass
class RunState:
    """What the steps of one run share.

    Attributes:
        plan: the plan.
        manager: loads implementations.
        folders: step name -> its artefact folder.
        stored: the records of a class that a step stored; only in the process that has the database.
        outputs: step name -> artefact records by type name, also of steps that were done before.
        providers: name -> provider, of those that were asked for.
        companions: step name -> pending steps that its pass through the model is made for, too.
    """

    plan: Plan
    manager: Manager
    folders: dict[str, Path]
    stored: StoredOf
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    providers: dict[str, Provider] = field(default_factory=dict)
    companions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _traces: list[Trace] | None = None
    _subject: tuple[object, Subject] | None = None
    _own_runs: OwnRuns | None = None
    _engines: Engines | None = None

    def registration(self, step: Step) -> Registration[Any]:
        """The registration of the plugin that does the step."""
        assert step.plugin is not None
        return self.manager.offer(step.plugin).registration

    def implementation(self, step: Step) -> Any:
        """The plugin that does the step."""
        assert step.plugin is not None
        return self.manager.implementation(step.plugin, step.config)

    def traces(self) -> list[Trace]:
        """The study's traces, read and cut once."""
        if self._traces is None:
            self._traces = study_traces(self.plan)
        return self._traces

    @property
    def held_out(self) -> tuple[Trace, ...]:
        """The traces that no trainer reads; none where no benchmark asks for them."""
        if not self.plan.study.settings(EvaluateConfig).reads_held_out:
            return ()
        from harness.model.traces import held_out_ids

        traces = self.traces()
        out = held_out_ids((t.id for t in traces), self.plan.study.data.held_out)
        return tuple(t for t in traces if t.id in out)

    def training_traces(self) -> list[Trace]:
        """The traces that trainers read: those that are not held out."""
        out = {t.id for t in self.held_out}
        return [t for t in self.traces() if t.id not in out]

    def subject(self, checkpoint: Checkpoint | None, device: str) -> Subject:
        """Base and checkpoint, loaded; the last one stays in memory, and the base under it serves the next adapter.
        A vLLM engine is closed: both do not fit."""
        from harness.model.subject import base_under, load_subject

        self.engines.close()
        wanted, study = (checkpoint, device), self.plan.study
        if self._subject is None or self._subject[0] != wanted:
            on_base = checkpoint is None or checkpoint.kind == "adapter"
            base = base_under(self._subject[1]) if self._subject and on_base else None
            self._subject = self._own_runs = None  # free the last one first: two 32B models do not fit
            self._subject = (wanted, load_subject(study.model, study.chat, checkpoint, device=device, loaded=base))
        self._subject[1].model.to(device)  # it was moved to the CPU if an engine ran meanwhile
        return self._subject[1]

    @property
    def engines(self) -> Engines:
        """Holds the run's vLLM engine."""
        if self._engines is None:
            from harness.benchmarks.engine import Engines

            evaluate = self.plan.study.settings(EvaluateConfig)
            self._engines = Engines(evaluate, evaluate.batch_size)
        return self._engines

    def answerer(self, step: Step, device: str) -> Answerer:
        """The variant that an evaluation asks, behind the study's backend."""
        from harness.benchmarks.answerer import InMemory

        study, checkpoint = self.plan.study, self.checkpoint(step)
        if study.settings(EvaluateConfig).backend == "hf":
            return InMemory(self.subject(checkpoint, device))
        from harness.benchmarks.served import serve
        from harness.model.lora_folder import read_lora

        self._subject = None  # no weights beside the engine's
        trained = [o["Checkpoint"] for o in self.outputs.values() if "Checkpoint" in o]
        rank = max((read_lora(c.path).rank for c in trained if c.kind == "adapter"), default=1)
        return serve(self.engines, study.model, study.chat, checkpoint, rank=rank)

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
        """The same, or the base for a step that reads nothing else; with the format of the text that probes read."""
        subject = self.adapter_subject(step, device) if step.inputs else self.subject(None, device)
        chat = self.plan.study.read_chat
        if chat is None:
            return subject
        return replace(subject, chat=chat.resolved(subject.tokenizer), chat_hash=chat.hash(subject.tokenizer))

    def own_runs(self, subject: Subject) -> OwnRuns:
        """The adapter's own runs over documents, which the judges of one process share."""
        from harness.model.own_runs import OwnRuns

        if self._own_runs is None or self._own_runs.subject.model is not subject.model:
            self._own_runs = OwnRuns(subject)
        return self._own_runs

    def activations(self, step: Step) -> ActivationSet:
        """The activation set among a step's inputs.

        Raises:
            HarnessError: there is none.
        """
        for name in step.inputs:
            if "ActivationSet" in self.outputs[name]:
                activations: ActivationSet = self.outputs[name]["ActivationSet"]
                return activations
        raise HarnessError(f"{step.name}: none of {', '.join(step.inputs)} made an activation set")

    def made(self, step: Step) -> Made:
        """What the step's inputs made: artefacts as they lie on disk now, other records as they are stored."""

        def records(record_class: type[R]) -> list[R]:
            name = record_class.__name__
            if name in ARTEFACTS:
                return [self.outputs[i][name] for i in step.inputs if name in self.outputs[i]]
            return [record for i in step.inputs for record in self.stored(i, record_class)]

        def codec(dictionary: Dictionary) -> Codec:
            from harness.activations.store import open_set
            from harness.activations.units import in_raw_units

            learned = next(self.plan.step(i) for i in step.inputs if self.outputs[i].get("Dictionary") == dictionary)
            return in_raw_units(self.implementation(learned).load(dictionary), open_set(self.activations(learned)))

        return Made(records, codec)

    def provider(self, role: str) -> tuple[Provider, str]:
        """Provider and model of a role of the plan. A provider is made once: some hold a model.

        Raises:
            UsageError: the study names no LLM for the role.
        """
        llm = self.plan.llms.get(role) or self.plan.llms.get("default")
        if llm is None:
            raise UsageError(
                f"no LLM for the role {role!r}: use --provider NAME:MODEL or set providers in the registry"
            )
        if llm.provider not in self.providers:
            self.providers[llm.provider] = self.manager.implementation(llm.provider, llm.config)
        return self.providers[llm.provider], llm.model

    @contextmanager
    def model_on_cpu(self) -> Iterator[None]:
        """Move the model to the CPU inside the block, so that workers have the GPUs."""
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
class FreeingGPUs:
    """An executor that moves the run's model off the GPUs while workers need them."""

    executor: Executor
    state: RunState

    @property
    def on_gpus(self) -> bool:
        """See `Executor`."""
        return self.executor.on_gpus

    @contextmanager
    def open(self, tool: Tool) -> Iterator[Workers[Tool]]:
        """See `Executor`."""
        with self.state.model_on_cpu() if self.on_gpus else nullcontext(), self.executor.open(tool) as workers:
            yield workers


def prepare_folder(folder: Path, *, keep: bool) -> Path:
    """Make a step's folder, and empty it unless `keep`: an interrupted step continues from what is in it."""
    if folder.is_symlink() or folder.is_file():
        if not (keep and folder.is_dir()):
            folder.unlink()  # what a link points to is not ours
    elif folder.exists() and not keep:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
