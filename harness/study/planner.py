"""What a kind of step declares, and the planner that puts a study's steps in order.

A step's key is the sha256 of everything its result depends on: kind, plugin, plugin version, config, seed, model, data,
chat format, and the keys of the steps it reads. A key that is done is never run again. A step that does not depend on
the seed has the key of seed 0, so that the runs of all seeds share it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness import __version__
from harness.benchmarks.fingerprint import benchmark_fingerprint
from harness.config import Config, digest
from harness.contract.context import RunContext
from harness.contract.settings import EvaluateConfig
from harness.contract.stages import PLURALS, Stage
from harness.errors import UnknownName
from harness.model.traces import fingerprint as data_fingerprint
from harness.records import Record
from harness.study.costs import Cost, CostModel, free
from harness.study.examples import with_cut_length
from harness.study.fingerprint import folder_fingerprint, model_fingerprint
from harness.study.grid import refuse_grid
from harness.study.llms import Settings, choose_llms
from harness.study.manager import Manager
from harness.study.sizes import ModelSize
from harness.study.state import RunState
from harness.study.step import Plan, Step
from harness.study.study_config import StudyConfig


@dataclass(frozen=True)
class StepKind:
    """A kind of step, declared once.

    Attributes:
        name: first part of its steps' names.
        stage: the stage that it belongs to.
        execute: does a step; yields its records as they are made.
        cost: what a step costs.
        n_features: how many features a step makes, where it makes some.
        in_worker: whether the worker process can do it: it reads artefacts and not the database.
        asks_llm: whether the harness itself asks an LLM for it. Where its plugin asks one, it does so anyway.
        shared_pass: the pass through the model that a step makes, or None; steps of the run that make the same one are
            companions: the first one makes it for all that are pending (`RunState.companions`).
        on_executor: whether its passes through the model run in the executor's workers.
        memory_bytes: what its weights need on the device; None where it loads no model.
        seeded: whether the harness's own part of it draws with the seed; else its plugin says.
        memory_cure: what else helps where they do not fit; `{plugin}` is the plugin's name.
        done_by: stage of the plugins that do it, where it is another.
        checks: what is looked at before a run with such a step begins; the flag says whether only a plan is wanted.
    """

    name: str
    stage: Stage
    execute: Callable[[Step, RunState, RunContext], Iterator[Record]]
    cost: Callable[[Step, CostModel], Cost] = free
    n_features: Callable[[Step, CostModel], int] | None = None
    in_worker: bool = False
    asks_llm: bool = False
    shared_pass: Callable[[Step], Hashable | None] | None = None
    on_executor: bool = False
    seeded: bool = True
    memory_bytes: Callable[[Step, Plan, ModelSize], float] | None = None
    memory_cure: str = ""
    done_by: Stage | None = None
    checks: tuple[Callable[[Plan, bool], None], ...] = ()


@dataclass(frozen=True)
class StageSteps:
    """What a module of `harness.study.steps` declares, as `STEPS`.

    Attributes:
        kinds: its kinds of step.
        plan: adds the study's steps of these kinds. Stages plan in their order.
        sections: settings of the study that it reads: what `--set SECTION.KEY=VALUE` reaches.
    """

    kinds: tuple[StepKind, ...]
    plan: Callable[[Planner], None]
    sections: Mapping[str, type[Config]] = field(default_factory=dict)


class Planner:
    """Puts a study's steps in order, inputs before what reads them.

    Attributes:
        study: with all settings resolved.
        layers: settings of plugins, in increasing precedence.
        manager: loads the plugins' configs.
        seed: of the run.
        steps: name -> step.
        adapter: name of the step that trains the adapter.
        reference: name of the step that trains the full fine-tune; None where the study has none.
        sources: names of the steps whose features are explained.
        controls: source -> its control. A probe says whose it is; a dictionary on a control is that of its like.
        llms: role -> who answers.
        data: what a key says of the traces.
        benchmarks: what a key says of the benchmarks.
    """

    adapter: str
    reference: str | None = None

    def __init__(self, manager: Manager, study: StudyConfig, layers: Sequence[Settings], seed: int) -> None:
        """Look at the model's files, the traces and the benchmarks; plan nothing yet."""
        self.manager, self.layers, self.seed = manager, layers, seed
        if study.data.cut == "paragraphs":
            trained = {t: t for t in (study.adapter, study.reference) if t}
            trained |= {row.name: row.trainer for row in study.adapters}
            study = with_cut_length(study, [n for name, t in trained.items() if (n := self._max_length(t, name))])
        self.study = study
        self.steps: dict[str, Step] = {}
        self.sources: list[str] = []
        self.controls: dict[str, str] = {}
        self.llms = choose_llms(study, layers, manager)
        self._world = {
            "harness": __version__,
            "model": [study.model.model_dump(), model_fingerprint(study.model)],
            "chat": study.chat.model_dump(),
        }
        self.data = [study.data.model_dump(), data_fingerprint(study.data)]
        evaluate = study.settings(EvaluateConfig)
        self.benchmarks = {
            name: benchmark_fingerprint(name, evaluate.task_paths, evaluate.data.get(name))
            for name in evaluate.benchmarks
        }
        if evaluate.reads_held_out:
            self.benchmarks["held-out traces"] = digest(self.data)

    def _max_length(self, trainer: str, name: str) -> int | None:
        """Tokens of a trainer's longest example; None where it trains on none."""
        if self.manager.stage_of(trainer) != "train":
            return None  # refused with its reason when it is planned
        length = self.config_of("train", trainer, name).model_dump().get("max_length")
        return length if isinstance(length, int) else None

    def plugin(self, kind: StepKind, name: str, inputs: tuple[str, ...], settings: object, *, suffix: str = "") -> str:
        """Add a step that a plugin does, named KIND/PLUGIN[/suffix]; returns its name. Asked for twice, it is one step.

        Raises:
            UnknownName: no such plugin, or it is of another stage.
            UsageError: its settings make a grid or are wrong.
        """
        full = "/".join(filter(None, (kind.name, name, suffix)))
        if full in self.steps:
            return full
        config, plugin = self.config(kind, name), self.manager.offer(name).registration
        seeded = kind.seeded or plugin.seeded
        return self.add(full, kind, name, config, inputs, [plugin.version, settings], seeded=seeded)

    def config(self, kind: StepKind, name: str) -> Config:
        """The settings of a plugin that does a kind of step.

        Raises:
            UnknownName: no such plugin, or it is of another stage.
            UsageError: its settings make a grid or are wrong.
        """
        return self.config_of(kind.done_by or kind.stage, name)

    def config_of(self, stage: Stage, plugin: str, name: str | None = None) -> Config:
        """The settings of a plugin of a stage, with those of `name` where the study calls it otherwise.

        Raises:
            UnknownName: no such plugin, or it is of another stage.
            UsageError: its settings make a grid or are wrong.
        """
        self.refuse_other_stage(plugin, stage)
        layers = self.layers_of(plugin, name)
        refuse_grid(self.manager, plugin, layers, PLURALS[stage])
        return self.manager.config(plugin, *layers)

    def add(
        self, name: str, kind: StepKind, plugin: str | None, config: Config, inputs: tuple[str, ...],
        settings: object, variant: str | None = None, *, seeded: bool = True,
    ) -> str:  # fmt: skip
        """Add a step; its key hashes all that its result depends on. Returns its name.

        A step that is not `seeded` (draws nothing with the seed), and reads only what no seed made, counts as seed 0's.
        """
        read = [self.steps[i] for i in inputs]
        shared = not seeded and all(step.shared for step in read)
        seed = 0 if shared else self.seed
        what = [kind.name, plugin, config.model_dump(mode="json"), settings]
        folders = list(filter(None, map(folder_fingerprint, config.reads())))
        key = digest([*what, seed, self._world, [step.key for step in read], *folders])
        recipe = digest([*what, None, self._world, [step.recipe for step in read], *folders])
        # The cells of a grid share their seed: they differ by what is swept, not by luck.
        step_seed = int(digest([seed, name.partition("@")[0]])[:7], 16)
        self.steps[name] = Step(
            name, kind.stage, kind.name, plugin, config, inputs, key, step_seed, variant, shared, recipe
        )
        return name

    def layers_of(self, plugin: str, name: str | None = None) -> list[Mapping[str, object]]:
        """A plugin's settings, in increasing precedence; within each layer those of `name` come after it."""
        return [{**layer.get(plugin, {}), **layer.get(name or plugin, {})} for layer in self.layers]

    def refuse_other_stage(self, name: str, stage: Stage) -> None:
        """Refuse a plugin that does not implement the stage.

        Raises:
            UnknownName: it is of another stage, or there is none of that name.
        """
        offered = self.manager.stage_of(name)
        if offered != stage:
            names = [n for n in self.manager.names() if self.manager.stage_of(n) == stage]
            raise UnknownName(f"plugin of stage {stage}", name, names, hint=f"{name!r} is of stage {offered}")
