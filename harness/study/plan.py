"""From a study to ordered steps with keys.

A step's key is the sha256 of everything its result depends on: kind, plugin, plugin version, config, seed, model, data,
chat format, and the keys of the steps it reads. A key that is done is never run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from harness import __version__
from harness.benchmarks.equality import PROMPT_VERSION
from harness.config import Config, digest
from harness.contract.settings import EvaluateConfig
from harness.contract.stages import PLURALS, STAGES, Stage, stage_of_word
from harness.errors import UnknownName, UsageError
from harness.interpretation.config import EnrichmentConfig, GradingConfig, ScoringConfig
from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig
from harness.model.traces import fingerprint as data_fingerprint
from harness.records import GRADER, ModelRef
from harness.study.grid import Cell, cells, refuse_grid
from harness.study.llms import LLMChoice, Settings, choose_llms, with_provider
from harness.study.manager import Manager
from harness.study.plan_interpretation import add_interpretation
from harness.study.registry import (
    SECTIONS,
    AnswersConfig,
    FeaturesConfig,
    JudgingConfig,
    Registry,
    StudyRow,
    find_study,
)

Kind = Literal[
    "train", "evaluate", "verify", "probe", "learn", "judge", "plant", "interpret", "score", "regrade", "categorise",
    "recategorise", "enrich", "ablate",
]  # fmt: skip
ONLY: dict[Stage, tuple[str, ...]] = {
    "train": ("train",),
    "evaluate": ("evaluate", "verify"),
    "probe": ("probe",),
    "learn": ("learn", "judge"),
    "interpret": ("plant", "interpret", "score", "regrade", "categorise", "recategorise", "enrich"),
    "ablate": ("ablate",),
}
"""What `--only` takes -> kinds of step."""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        name: unique in the plan, e.g. `learn/batch-topk`.
        kind: what it does.
        plugin: who does it; None for evaluations, which the harness does itself.
        config: the plugin's validated config.
        inputs: names of the steps whose outputs it reads.
        key: see the module's docstring.
        seed: derived from the run's seed and the name.
        variant: for evaluations, which model.
    """

    name: str
    kind: Kind
    plugin: str | None
    config: Config
    inputs: tuple[str, ...]
    key: str
    seed: int
    variant: str | None = None

    @property
    def stage(self) -> Stage:
        """The stage that its kind belongs to."""
        return next(stage for stage, kinds in ONLY.items() if self.kind in kinds)

    @property
    def label(self) -> str:
        """The name without the kind, e.g. `batch-topk@k=8`: what its results are called."""
        return self.name.partition("/")[2]


@dataclass(frozen=True)
class Plan:
    """A study with all settings resolved, and its steps in the order in which they run.

    `llms`: role -> who answers. `sources`: names of the steps whose features are explained.
    """

    study: str
    preset: str | None
    row: StudyRow
    seed: int
    steps: tuple[Step, ...]
    llms: Mapping[str, LLMChoice] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(s for s in self.steps if s.name == name)


def parse_settings(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["rank1-lora.epochs=3"]` -> `{"rank1-lora": {"epochs": 3}}`; values are YAML.

    Raises:
        UsageError: not of the form NAME.KEY=VALUE.
    """
    settings: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        left, equals, value = pair.partition("=")
        name, dot, key = left.strip().rpartition(".")
        if not (equals and dot and name and key):
            raise UsageError(f"--set {pair!r}: write NAME.KEY=VALUE, for example rank1-lora.epochs=3")
        try:
            settings.setdefault(name, {})[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {pair!r}: the value is not YAML: {error}") from error
    return settings


def make_plan(
    registry: Registry,
    manager: Manager,
    target: str,
    *,
    preset: str | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    provider: Sequence[str] = (),
) -> Plan:
    """Plan a study, or a single plugin with what it needs.

    Args:
        registry: the registry.
        manager: loads the plugins' configs.
        target: study name; else plugin name, planned within the default study.
        preset: a preset of the study.
        settings: what `--set` gave; wins over everything.
        seed: of the run.
        only: stages to run (keys of `ONLY`), with the steps they need.
        provider: `name[:model]` for every role, `role=name[:model]` for one; interpreters that ask a provider then
            replace those that do not (unless the only role is the grader of benchmark answers).

    Raises:
        UsageError: an unknown name or a value out of range.
    """
    single = target if target not in registry.studies else None
    study = registry.default_study if single else target
    if single and single not in manager.names():
        raise UnknownName(
            "study or plugin", single, [*registry.studies, *manager.names()], hint="list: harness plugins"
        )
    row = find_study(registry, study)
    layers = _layers(row, preset, settings or {}, manager, study)
    row = _resolve_sections(row, layers)
    if single:
        row = _only_plugin(row, single, manager)
    if provider:
        row = with_provider(row, provider, manager)
    builder = Builder(manager, row, layers, seed)
    steps = builder.build()
    wanted = [s.name for s in steps if s.plugin == single] if single else [s.name for s in steps]
    if only:
        stages = [stage_of_word(word) for word in only]
        for stage in stages:
            if stage not in STAGES:
                raise UnknownName("stage", stage, STAGES)
        wanted = [s.name for s in steps if s.name in wanted and s.stage in stages]
        if not wanted:
            raise UsageError(f"{target} has no steps of stage {', '.join(only)}")
    return Plan(study, preset, row, seed, _with_ancestors(steps, wanted), builder.llms, frozenset(builder.sources))


def _layers(row: StudyRow, preset: str | None, settings: Settings, manager: Manager, study: str) -> list[Settings]:
    if preset is not None and preset not in row.presets:
        raise UnknownName(f"preset of {study}", preset, row.presets)
    layers: list[Settings] = []
    for flat in (row.set, row.presets.get(preset or "", {})):
        nested: dict[str, dict[str, Any]] = {}
        for dotted, value in flat.items():
            name, _, key = dotted.rpartition(".")
            nested.setdefault(name, {})[key] = value
        layers.append(nested)
    layers.append(settings)
    for layer in layers:
        for name in layer:
            if name not in SECTIONS and name not in manager.names():
                raise UnknownName("plugin or section", name, [*SECTIONS, *manager.names()], hint="--set NAME.KEY=VALUE")
    return layers


def _resolve_sections(row: StudyRow, layers: Sequence[Settings]) -> StudyRow:
    update: dict[str, Any] = {}
    kinds: dict[str, type[Config]] = {
        "data": DataConfig, "chat": ChatFormat, "evaluate": EvaluateConfig, "answers": AnswersConfig,
        "features": FeaturesConfig, "judging": JudgingConfig, "grading": GradingConfig, "scoring": ScoringConfig,
        "enrichment": EnrichmentConfig,
    }  # fmt: skip
    for name, kind in kinds.items():
        update[name] = kind.merged(name, getattr(row, name).model_dump(), *(layer.get(name, {}) for layer in layers))
    reading = [layer.get("read_chat", {}) for layer in layers]
    if row.read_chat is not None or any(reading):
        own = row.read_chat.model_dump(exclude_unset=True) if row.read_chat else {}
        update["read_chat"] = ChatFormat.merged("read_chat", update["chat"].model_dump(), own, *reading)
    model = row.model.model_dump()
    providers = dict(row.providers)
    for layer in layers:
        for key, value in layer.get("model", {}).items():
            if key not in ModelRef.model_fields:
                raise UnknownName("key of model", key, ModelRef.model_fields)
            model[key] = value
        providers.update({k: str(v) for k, v in layer.get("providers", {}).items()})
    try:
        update["model"] = ModelRef.model_validate(model)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
    return row.model_copy(update={**update, "providers": providers})


def _only_plugin(row: StudyRow, name: str, manager: Manager) -> StudyRow:
    stage = manager.stage_of(name)
    if stage == "provide":
        raise UsageError(
            f"{name!r} is an LLM provider, not something to run; use: harness run --plugin STUDY --provider {name}"
        )
    if stage == "train":
        return row.model_copy(update={"adapter": name, "reference": None})
    return row.model_copy(update={PLURALS[stage]: (name,)})


def _with_ancestors(steps: Sequence[Step], wanted: Sequence[str]) -> tuple[Step, ...]:
    by_name = {s.name: s for s in steps}
    keep: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in keep:
            keep.add(name)
            todo.extend(by_name[name].inputs)
    return tuple(s for s in steps if s.name in keep)


class Builder:
    """Puts a study's steps in order, inputs before what reads them."""

    def __init__(self, manager: Manager, row: StudyRow, layers: Sequence[Settings], seed: int) -> None:
        from harness.benchmarks.fingerprint import benchmark_fingerprint
        from harness.study.fingerprint import model_fingerprint

        self.manager, self.row, self.layers, self.seed = manager, row, layers, seed
        self.steps: dict[str, Step] = {}
        self.sources: list[str] = []
        self.llms = choose_llms(row, layers, manager)
        self.world = {
            "harness": __version__,
            "model": [row.model.model_dump(), model_fingerprint(row.model)],
            "chat": row.chat.model_dump(),
        }
        self.data = [row.data.model_dump(), data_fingerprint(row.data)]
        self.benchmarks = {
            name: benchmark_fingerprint(name, row.evaluate.task_paths, row.evaluate.data.get(name))
            for name in row.evaluate.benchmarks
        }

    def build(self) -> tuple[Step, ...]:
        """All steps of the study."""
        row = self.row
        adapter = self.plugin("train", row.adapter, (), self.data)
        reference = self.plugin("train", row.reference, (), self.data) if row.reference else None
        if row.evaluate.benchmarks:
            for variant, inputs in (
                ("base", ()),
                ("adapter", (adapter,)),
                ("full", (reference,) if reference else None),
            ):
                if inputs is not None:
                    self._evaluate(variant, inputs)
        self.sources = self._sources(adapter)
        add_interpretation(self, self.sources)
        for name in row.ablations:
            settings = [self.data, self.benchmarks, row.evaluate.model_dump(exclude={"batch_size"})]
            self.plugin("ablate", name, (adapter,), settings)
        return tuple(self.steps.values())

    def _sources(self, adapter: str) -> list[str]:
        """Probe and dictionary steps: everything that has features to explain. Dictionaries are judged, too."""
        other = self.row.read_chat.model_dump() if self.row.read_chat else None
        read = [self.data, self.row.features.model_dump(), *([other] if other else [])]
        probes = [self.plugin("probe", name, (adapter,), read) for name in self.row.probes]
        explained = []
        for name in self.row.dictionaries:
            registration = self.manager.offer(name).registration
            needs = registration.needs or self.row.probes[:1]
            if not needs:
                raise UsageError(f"{name!r} reads a probe's activations, and the study has no probe")
            inputs = tuple(self.plugin("probe", need, (adapter,), read) for need in needs)
            explain = self.row.judging.explains(registration)
            for cell in self._cells(name):
                learned = self._learn(name, cell, (*inputs, adapter), [*read, explain])
                explained += [learned] if explain else []
        return [*probes, *explained]

    def _cells(self, name: str) -> list[Cell]:
        self._refuse_other_stage(name, "learn")
        return cells(self.manager, name, [layer.get(name, {}) for layer in self.layers])

    def _learn(self, name: str, cell: Cell, inputs: tuple[str, ...], settings: object) -> str:
        """The steps that fit a dictionary and judge it. A cell's label is part of what it is called, so of its key."""
        version = self.manager.offer(name).registration.version
        label = name + (f"@{cell.label}" if cell.label else "")
        learned = self.add(f"learn/{label}", "learn", name, cell.config, inputs, [version, settings, label])
        judging = [version, self.row.judging.model_dump(exclude={"explain_baselines"})]
        self.add(f"judge/{label}", "judge", name, cell.config, (learned, *inputs), judging)
        return learned

    def plugin(self, kind: Kind, name: str, inputs: tuple[str, ...], settings: object, *, suffix: str = "") -> str:
        """A step that a plugin does, named KIND/PLUGIN[/suffix]; returns its name. Asked for twice, it is one step."""
        full = "/".join(filter(None, (kind, name, suffix)))
        if full in self.steps:
            return full
        stage = next(stage for stage, kinds in ONLY.items() if kind in kinds)
        self._refuse_other_stage(name, stage)
        layers = [layer.get(name, {}) for layer in self.layers]
        refuse_grid(self.manager, name, layers, PLURALS[stage])
        config = self.manager.config(name, *layers)
        version = self.manager.offer(name).registration.version
        return self.add(full, kind, name, config, inputs, [version, settings])

    def _refuse_other_stage(self, name: str, stage: Stage) -> None:
        offered = self.manager.stage_of(name)
        if offered != stage:
            names = [n for n in self.manager.names() if self.manager.stage_of(n) == stage]
            raise UnknownName(f"plugin of stage {stage}", name, names, hint=f"{name!r} is of stage {offered}")

    def _evaluate(self, variant: str, inputs: tuple[str, ...]) -> None:
        """The step that runs the benchmarks, and the one that has its answers compared where there is a grader."""
        settings = [self.benchmarks, variant]
        done = self.add(f"evaluate/{variant}", "evaluate", None, self.row.evaluate, inputs, settings, variant)
        if GRADER in self.llms:
            asked = [self.llms[GRADER].identity(), PROMPT_VERSION]
            self.add(f"verify/{variant}", "verify", None, self.row.answers, (done,), asked, variant)

    def add(
        self,
        name: str,
        kind: Kind,
        plugin: str | None,
        config: Config,
        inputs: tuple[str, ...],
        settings: object,
        variant: str | None = None,
    ) -> str:
        """A step; its key hashes all that its result depends on. Returns its name."""
        from harness.study.fingerprint import folder_fingerprint

        hashed = [
            kind, plugin, config.model_dump(mode="json"), settings, self.seed, self.world,
            [self.steps[i].key for i in inputs], *filter(None, map(folder_fingerprint, config.reads())),
        ]  # fmt: skip
        # The cells of a grid share their seed: they differ by what is swept, not by luck.
        step_seed = int(digest([self.seed, name.partition("@")[0]])[:7], 16)
        self.steps[name] = Step(name, kind, plugin, config, inputs, digest(hashed), step_seed, variant)
        return name
