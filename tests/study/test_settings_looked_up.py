"""Settings can be looked up: each value and its origin, types in words, names that people bring, lists of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt

from harness.config import SYNONYMS, Config
from harness.errors import UnknownName
from harness.study.effective import effective, names_with_settings
from harness.study.manager import Manager
from harness.study.plain_types import type_of_field
from harness.study.registry import STUDY_SECTIONS, Registry, read_registry
from harness.study.registry_file import find_registry


@pytest.fixture(scope="module")
def registry() -> Registry:
    return read_registry(find_registry(None))


@pytest.fixture(scope="module")
def manager(registry: Registry) -> Manager:
    return Manager(registry)


@pytest.mark.parametrize(
    ("name", "key", "preset", "value", "origin"),
    [
        ("rank1-lora", "lr", None, 3.0e-3, "study"),
        ("rank1-lora", "rank", None, 1, "default"),
        ("rank1-lora", "epochs", "tiny", 2, "preset tiny"),
        ("k-means", "k", None, 4, "study"),  # the learned dictionary's: all have one L0
        ("judging", "splice_documents", None, 32, "study"),
        ("model", "path", None, "package://harness/organism/checkpoint", "study"),
        ("grading", "planted", None, 10, "default"),
    ],
)
def test_a_value_and_where_it_comes_from(
    registry: Registry, manager: Manager, name: str, key: str, preset: str | None, value: object, origin: str
) -> None:
    _, settings = effective(registry, manager, name, "rank1-lora", preset)
    assert settings[key] == (value, origin)


def test_each_layer_wins_over_those_before_it(tmp_path: Path) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(
        "version: 1\ndefault_study: s\nplugins:\n"
        "  - name: rank1-lora\n    stage: train\n    module: harness_plugins.trainers.rank1_lora\n"
        "    config: {rank: 3, lr: 0.5, epochs: 7}\n"
        "studies:\n  s:\n    summary: a study\n    model: {path: m}\n    data: {path: d.jsonl}\n"
        "    adapter: rank1-lora\n"
        "    set: {rank1-lora.lr: 0.25, rank1-lora.epochs: 8}\n    presets: {p: {rank1-lora.epochs: 9}}\n"
    )
    own = read_registry(file)
    _, settings = effective(own, Manager(own), "rank1-lora", "s", "p")
    assert [settings[key] for key in ("rank", "lr", "epochs", "dropout")] == [
        (3, "plugin"), (0.25, "study"), (9, "preset p"), (0.0, "default"),
    ]  # fmt: skip


def test_every_section_and_plugin_can_be_looked_up_in_every_study_and_preset(
    registry: Registry, manager: Manager
) -> None:
    names = names_with_settings(manager)
    assert {"model", *STUDY_SECTIONS} <= set(names)
    for study_name, study in registry.studies.items():
        for preset in (None, *study.presets):
            for name in names:
                declared, settings = effective(registry, manager, name, study_name, preset)
                assert list(settings) == list(declared.model_fields)


def test_what_is_shown_is_what_a_run_gets(registry: Registry, manager: Manager) -> None:
    """The planned steps' configs are the truth; the looked-up values are made by another way."""
    from harness.study.plan import make_plan

    plan = make_plan(registry, manager, "rank1-lora", preset="tiny")
    checked = 0
    for step in plan.steps:
        if step.plugin in manager.names() and step.name == f"{step.kind}/{step.plugin}":
            _, settings = effective(registry, manager, step.plugin, "rank1-lora", "tiny")
            shown = step.config.model_validate({k: v for k, (v, _) in settings.items()})
            assert shown == step.config, step.name
            checked += 1
    assert checked > 8


def test_types_are_said_in_words() -> None:
    class Some(Config):
        a: PositiveInt | None = None
        b: Literal["x", "y"] = "x"
        c: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
        d: dict[str, str] = Field(default_factory=dict)
        e: bool = True

    assert [type_of_field(f) for f in Some.model_fields.values()] == [
        "whole number above 0, or none", "x | y", "list of number above 0 and at most 1", "mapping of text to text",
        "true or false",
    ]  # fmt: skip


def test_a_name_that_people_bring_is_answered_by_ours() -> None:
    class Some(Config):
        lr: float = 1.0
        logging_steps: int = 1

    with pytest.raises(UnknownName, match="nearest: 'lr'"):
        Some.merged("some", {"learning_rate": 2})


def test_every_synonym_means_a_setting_that_exists(manager: Manager) -> None:
    declared = [*STUDY_SECTIONS.values(), *(offer.registration.config for offer in manager.load_all())]
    known = {key for config in declared for key in config.model_fields}
    unknown = {name: ours for name, meant in SYNONYMS.items() for ours in meant if ours not in known}
    assert not unknown
    taken = {name for name in SYNONYMS if all(name in config.model_fields for config in declared)}
    assert not taken


@pytest.mark.parametrize(
    ("given", "expected"),
    [("gsm8k", ("gsm8k",)), ("gsm8k,math500", ("gsm8k", "math500")), (["gsm8k"], ("gsm8k",)), ("a{1,2}", ("a{1,2}",))],
)
def test_a_list_of_one_needs_no_brackets(given: object, expected: tuple[str, ...]) -> None:
    class Some(Config):
        names: tuple[str, ...] = ()

    assert Some.merged("some", {"names": given}).names == expected
