"""From a study of the registry, with what the command line gave, to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from harness.contract.stages import PLURALS, STAGES, stage_of_word
from harness.errors import UnknownName, UsageError, masked_argument
from harness.files import reading
from harness.model.chat import ChatFormat
from harness.records import ModelRef
from harness.study import steps as step_kinds
from harness.study.llms import Settings, with_provider
from harness.study.manager import Manager
from harness.study.planner import Planner
from harness.study.registry import STUDY_SECTIONS, Registry, find_study
from harness.study.step import Plan, Step
from harness.study.study_config import DictionaryRow, StudyConfig


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
            raise UsageError(f"--set {masked_argument(pair)!r}: write NAME.KEY=VALUE, for example rank1-lora.epochs=3")
        with reading(f"--set {name}.{key}", "write its value as YAML", error_type=UsageError):
            settings.setdefault(name, {})[key] = loaded = yaml.safe_load(value)
        for part in loaded if isinstance(loaded, dict) else ():
            if loaded[part] is None and isinstance(part, str) and ":" in part:
                first, _, rest = part.partition(":")
                spaced = masked_argument(f"{name}.{key}={{{first}: {rest}}}")
                raise UsageError(f"--set {masked_argument(pair)!r}: YAML wants a space after a colon: {spaced}")
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
        only: stages to run (of `STAGES`), with the steps they need.
        provider: `name[:model]` for every role, `role=name[:model]` for one; interpreters that ask a provider then
            replace those that do not (unless the only role is the grader of benchmark answers).

    Raises:
        UsageError: an unknown name or a value out of range.
    """
    single = target if target not in registry.studies else None
    name = registry.default_study if single else target
    study = find_study(registry, name)
    rows = {row.name: row for row in study.dictionaries}
    if single and single not in (*manager.names(), *rows):
        raise UnknownName(
            "study or plugin", single, [*registry.studies, *manager.names(), *rows], hint="list: harness plugins"
        )
    layers = setting_layers(study, preset, settings or {}, manager, name)
    layers = [inherited_settings(study, layers, manager), *layers]
    study = _resolve_sections(study, layers)
    if single:
        study = _only_plugin(study, single, manager)
    if provider:
        study = with_provider(study, provider, manager)
    planner = Planner(manager, study, layers, seed)
    for stage_steps in step_kinds.declared():
        stage_steps.plan(planner)
    steps = tuple(planner.steps.values())
    does = rows[single].learner if single in rows else single
    wanted = [s.name for s in steps if s.plugin == does or not single]
    if only:
        stages = [stage_of_word(word) for word in only]
        for stage in stages:
            if stage not in STAGES:
                raise UnknownName("stage", stage, STAGES)
        wanted = [s.name for s in steps if s.name in wanted and s.stage in stages]
        if not wanted:
            raise UsageError(f"{target} has no steps of stage {', '.join(only)}")
    with_inputs = _with_ancestors(steps, wanted)
    return Plan(
        name, preset, planner.study, seed, with_inputs, planner.llms, frozenset(planner.sources), planner.controls
    )


def setting_layers(
    study: StudyConfig, preset: str | None, settings: Settings, manager: Manager, study_name: str
) -> list[Settings]:
    """What the study's `set`, the preset and `--set` say, each as name -> key -> value; the later wins.

    Raises:
        UnknownName: no such preset, plugin or section.
    """
    if preset is not None and preset not in study.presets:
        raise UnknownName(f"preset of {study_name}", preset, study.presets)
    layers: list[Settings] = []
    for flat in (study.set, study.presets.get(preset or "", {})):
        nested: dict[str, dict[str, Any]] = {}
        for dotted, value in flat.items():
            name, _, key = dotted.rpartition(".")
            nested.setdefault(name, {})[key] = value
        layers.append(nested)
    layers.append(settings)
    rows = [*(row.name for row in study.dictionaries), *(row.name for row in study.adapters)]
    names = [*STUDY_SECTIONS, "model", "read_chat", "providers", *manager.names(), *rows]
    for layer in layers:
        for name in layer:
            if name not in names:
                raise UnknownName("plugin or section", name, names, hint="--set NAME.KEY=VALUE")
    return layers


def inherited_settings(study: StudyConfig, layers: Sequence[Settings], manager: Manager) -> Settings:
    """The k and expansion of the study's first learned dictionary, for baselines that say nothing else: one L0 for all.

    A grid is not inherited: its cells are compared with the baselines as they are without it.
    """
    learned = next((r for r in study.dictionaries if not manager.offer(r.learner).registration.baseline), None)
    if learned is None:
        return {}
    common: dict[str, Any] = {}
    for layer in layers:
        given = {**layer.get(learned.learner, {}), **layer.get(learned.name, {})}
        common.update({k: given[k] for k in ("k", "expansion") if k in given and not isinstance(given[k], list)})
    inherited: dict[str, dict[str, Any]] = {}
    for name in (name for name in manager.names() if manager.stage_of(name) == "learn"):
        offer = manager.offer(name)
        if offer.registration.baseline:
            taken = offer.registration.config.model_fields.keys() - offer.row_config.keys()
            inherited[name] = {key: value for key, value in common.items() if key in taken}
    return inherited


def _resolve_sections(study: StudyConfig, layers: Sequence[Settings]) -> StudyConfig:
    update: dict[str, Any] = {
        name: section.merged(name, getattr(study, name).model_dump(), *(layer.get(name, {}) for layer in layers))
        for name, section in STUDY_SECTIONS.items()
    }
    reading = [layer.get("read_chat", {}) for layer in layers]
    if study.read_chat is not None or any(reading):
        registered = study.read_chat.model_dump(exclude_unset=True) if study.read_chat else {}
        update["read_chat"] = ChatFormat.merged("read_chat", update["chat"].model_dump(), registered, *reading)
    model = study.model.model_dump()
    providers = dict(study.providers)
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
    return study.model_copy(update={**update, "providers": providers})


def _only_plugin(study: StudyConfig, name: str, manager: Manager) -> StudyConfig:
    study = study.model_copy(update={"adapters": ()})
    row = next((row for row in study.dictionaries if row.name == name), None)
    if row is not None:
        return study.model_copy(update={"dictionaries": (row,)})
    stage = manager.stage_of(name)
    if stage == "provide":
        raise UsageError(
            f"{name!r} is an LLM provider, not something to run; use: harness run --plugin STUDY --provider {name}"
        )
    if stage == "train":
        return study.model_copy(update={"adapter": name, "reference": None})
    if stage == "learn":
        return study.model_copy(update={"dictionaries": (DictionaryRow(name=name, learner=name),)})
    others = {"dictionaries": ()} if stage == "probe" else {}  # they may be fitted on probes that are left out
    return study.model_copy(update={PLURALS[stage]: (name,), **others})


def _with_ancestors(steps: Sequence[Step], wanted: Sequence[str]) -> tuple[Step, ...]:
    by_name = {s.name: s for s in steps}
    needed: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo.extend(by_name[name].inputs)
    return tuple(s for s in steps if s.name in needed)
