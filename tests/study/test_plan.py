"""The plan: order of steps, what their keys depend on, and what can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from harness.errors import UsageError
from harness.study.manager import Manager
from harness.study.plan import make_plan, parse_settings
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.step import Plan
from harness.study.study_config import StudyConfig


def plan(target: str = "rank1-lora", **options: object) -> Plan:
    registry = read_registry(find_registry(None))
    return make_plan(registry, Manager(registry), target, **options)  # type: ignore[arg-type]


PROBES = ("adapter-activations", "mlp-neurons", "random-directions")
SOURCES = ("adapter-activations", "mlp-neurons", "random-directions", "batch-topk", "batch-topk-on-random")


def keys(p: Plan) -> dict[str, str]:
    return {s.name: s.key for s in p.steps}


def test_inputs_come_before_what_reads_them_and_every_stage_is_there() -> None:
    p = plan()
    seen: set[str] = set()
    for step in p.steps:
        assert set(step.inputs) <= seen, step.name
        seen.add(step.name)
    assert {s.kind for s in p.steps} == {
        "train", "evaluate", "probe", "learn", "judge", "plant", "interpret", "score", "regrade", "categorise",
        "recategorise", "cover", "enrich", "ablate", "output",
    }  # fmt: skip


def test_the_same_plan_has_the_same_keys_and_another_seed_has_others() -> None:
    first, other = plan(), plan(seed=1)
    assert keys(first) == keys(plan())
    shared = {s.name for s in first.steps if s.key in keys(other).values()}
    assert shared == {"evaluate/base", "probe/mlp-neurons", "interpret/lexical/mlp-neurons"}
    assert shared == {s.name for s in first.steps if s.shared}
    assert all(s.seed == other.step(s.name).seed for s in first.steps if s.shared)
    assert [s.recipe for s in first.steps] == [s.recipe for s in other.steps]


@pytest.mark.parametrize(
    ("settings", "no_longer"),
    [
        ({"evaluate": {"temperature": 0.7}}, {"evaluate/base"}),
        ({"evaluate": {"benchmarks": ["gsm8k"]}}, {"evaluate/base"}),
        ({"mlp-neurons": {"adapter": True}}, {"probe/mlp-neurons", "interpret/lexical/mlp-neurons"}),
    ],
    ids=["sampled answers", "a task that may sample", "neurons with the adapter on"],
)
def test_what_begins_to_depend_on_the_seed_is_not_shared_any_more(
    settings: dict[str, dict[str, object]], no_longer: set[str]
) -> None:
    before = {s.name for s in plan().steps if s.shared}
    assert before - {s.name for s in plan(settings=settings).steps if s.shared} == no_longer


def test_an_adapter_from_elsewhere_is_read_once_for_all_seeds(tmp_path: Path) -> None:
    settings = {"pretrained-adapter": {"path": str(tmp_path)}}
    shared = {s.name for s in plan("existing-adapter", settings=settings).steps if s.shared}
    assert {"train/pretrained-adapter", "probe/adapter-activations"} <= shared
    assert "probe/random-directions" not in shared, "its vectors are drawn with the seed"


def test_another_setting_is_another_recipe_whatever_the_seed() -> None:
    one, other = plan(), plan(seed=3, settings={"data": {"limit": 50}})
    assert not {s.recipe for s in one.steps} & {s.recipe for s in other.steps if s.name != "evaluate/base"}


def test_a_setting_changes_the_keys_of_what_depends_on_it_and_no_other() -> None:
    before, after = keys(plan()), keys(plan(settings={"batch-topk": {"steps": 2}}))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        *(f"{kind}/{name}" for kind in ("learn", "judge", "interpret/lexical", "score/lexical")
          for name in ("batch-topk", "batch-topk-on-random")),
        "regrade/lexical", "cover/lexical", "categorise/lexical", "recategorise/lexical", "enrich/features",
        "ablate/attribute", "ablate/steer", "ablate/write-directions",  # they read the dictionaries
        "output/lexical",
    }  # fmt: skip
    after = keys(plan(settings={"full-finetune": {"epochs": 1}}))
    assert {name for name in before if before[name] != after[name]} == {
        "train/full-finetune",
        "evaluate/full",
        "ablate/differences",
    }


def test_a_benchmark_on_held_out_traces_changes_what_is_trained_on() -> None:
    plain = keys(plan(settings={"evaluate": {"benchmarks": ["gsm8k_cot"]}}))
    read = keys(plan(settings={"evaluate": {"benchmarks": ["trace_loss"]}}))
    own = keys(plan(settings={"evaluate": {"benchmarks": ["trace_loss"], "data": {"trace_loss": "other.jsonl"}}}))
    more = keys(plan(settings={"evaluate": {"benchmarks": ["trace_loss"]}, "data": {"held_out": 0.5}}))
    for step in ("train/rank1-lora", "train/full-finetune"):
        assert plain[step] == own[step] == keys(plan())[step]
        assert len({plain[step], read[step], more[step]}) == 3
    assert read["evaluate/base"] != more["evaluate/base"]


@pytest.mark.parametrize(
    ("target", "name", "step"),
    [
        ("existing-dictionary", "existing-dictionary", "learn/existing-dictionary"),
        ("existing-adapter", "pretrained-adapter", "train/pretrained-adapter"),
    ],
)
def test_another_file_in_a_folder_that_is_read_changes_the_key(
    target: str, name: str, step: str, tmp_path: Path
) -> None:
    def key() -> str:
        return keys(plan(target, settings={name: {"path": str(tmp_path)}}))[step]

    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    first = key()
    assert key() == first
    weights.write_bytes(b"two")
    assert key() != first


def test_a_folder_that_is_needed_and_not_named_is_asked_for_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"--set existing-dictionary\.path=VALUE"):
        plan("existing-dictionary")


def test_the_benchmarks_batch_size_is_part_of_the_evaluations_only() -> None:
    before, after = keys(plan()), keys(plan(settings={"evaluate": {"batch_size": 8}}))
    assert {name.partition("/")[0] for name in before if before[name] != after[name]} == {"evaluate"}


def test_another_provider_changes_nothing_but_the_interpretation() -> None:
    before, after = keys(plan()), keys(plan(provider=("openai:gpt-5-mini",)))
    shared = {n for n in before if "lexical" not in n}
    assert all(before[n] == after[n] for n in shared)
    assert {n for n in after if n not in shared} == {
        *(f"{kind}/autointerp" for kind in ("regrade", "cover", "categorise", "recategorise", "output")),
        *(f"{kind}/autointerp/{s}" for kind in ("interpret", "score") for s in SOURCES),
        "interpret/autointerp/planted",
    }


def test_grading_and_scoring_can_be_switched_off_and_change_their_own_steps_only() -> None:
    before, after = keys(plan()), keys(plan(settings={"scoring": {"contexts": 4}, "grading": {"repeats": 3}}))
    assert {n.partition("/")[0] for n in before if before[n] != after[n]} == {
        "plant", "interpret", "score", "regrade", "cover", "recategorise",  # planted features are covered, too
    }  # fmt: skip
    assert {n for n in before if n.startswith("interpret") and before[n] != after[n]} == {"interpret/lexical/planted"}
    off = {"planted": 0, "repeats": 0, "shuffles": 0, "recategorised": 0}
    least = keys(plan(settings={"scoring": {"features": 0}, "grading": off}))
    assert not [n for n in least if n.startswith(("plant", "score", "regrade", "recategorise", "output"))]


def test_a_second_judge_is_asked_where_one_is_named() -> None:
    off = {"repeats": 0, "shuffles": 0}
    assert "regrade/autointerp" not in keys(plan(provider=("scripted:a",), settings={"grading": off}))
    two = plan(provider=("scripted:a", "second-judge=scripted:b"), settings={"grading": off})
    assert "regrade/autointerp" in keys(two)
    judged = plan(provider=("scripted:a", "judge=scripted:b"), settings={"grading": off})
    assert "regrade/autointerp" in keys(judged), "it says how far the explainer's own grades agree with the judge's"


def test_a_role_that_nobody_answers_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="no LLM is named for explainer, categories, categoriser, scorer"):
        plan(provider=("judge=scripted:a",))
    every = ("explainer", "categories", "categoriser", "scorer")
    assert plan(provider=tuple(f"{role}=scripted:a" for role in every)).llms.keys() == set(every)


def test_a_single_plugin_is_planned_with_what_it_needs() -> None:
    assert [s.name for s in plan("batch-topk").steps] == [
        "train/rank1-lora",
        "probe/adapter-activations",
        "learn/batch-topk",
        "judge/batch-topk",
    ]
    assert [s.name for s in plan("mlp-neurons").steps] == ["probe/mlp-neurons"], "it reads the base alone"
    with_adapter = plan("mlp-neurons", settings={"mlp-neurons": {"adapter": True}})
    assert [s.name for s in with_adapter.steps] == ["train/rank1-lora", "probe/mlp-neurons"]
    assert [s.name for s in plan("full-finetune").steps] == ["train/full-finetune"]
    whole = keys(plan())
    for name, key in keys(plan("batch-topk")).items():
        assert whole[name] == key, "a single plugin reuses what the study did"


def test_only_keeps_a_stage_and_its_inputs() -> None:
    assert [s.name for s in plan(only=["ablations"]).steps] == [s.name for s in plan(only=["ablate"]).steps]
    names = [s.name for s in plan(only=["evaluate"]).steps]
    assert names == ["train/rank1-lora", "train/full-finetune", "evaluate/base", "evaluate/adapter", "evaluate/full"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "rank1-lroa"}, "nearest: 'rank1-lora'"),
        ({"preset": "dmo"}, "nearest: 'demo'"),
        ({"settings": {"rank1-lora": {"rnk": 2}}}, "no key of rank1-lora 'rnk'; nearest: 'rank'"),
        ({"settings": {"batch-topkk": {"k": 2}}}, "nearest: 'batch-topk'"),
        ({"settings": {"rank1-lora": {"rank": 0}}}, "rank1-lora.rank=0"),
        ({"settings": {"chat": {"thnk_header": "x"}}}, "nearest: 'think_header'"),
        ({"only": ["trian"]}, "nearest: 'train'"),
        ({"provider": ("opnai:x",)}, "nearest: 'openai'"),
        ({"target": "openai"}, "--provider openai"),
    ],
)
def test_what_is_unknown_names_the_nearest(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(**options)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_settings_are_yaml_and_malformed_ones_are_named() -> None:
    assert parse_settings(["a.b=3", "a.c=[1, 2]", "chat.end=<x>"]) == {
        "a": {"b": 3, "c": [1, 2]},
        "chat": {"end": "<x>"},
    }
    with pytest.raises(UsageError, match=r"write NAME\.KEY=VALUE"):
        parse_settings(["epochs=3"])
    with pytest.raises(UsageError, match=r"space after a colon: evaluate\.data=\{a: /x\}"):
        parse_settings(["evaluate.data={a:/x}"])
    assert parse_settings(["evaluate.data={a: /x, b:}"]) == {"evaluate": {"data": {"a": "/x", "b": None}}}


def test_another_format_for_reading_changes_what_reads_and_nothing_else() -> None:
    before = keys(plan())
    after = keys(plan(settings={"read_chat": {"template": "unclosed", "system": "Be helpful."}}))
    changed = {name.partition("/")[0] for name in before if before[name] != after[name]}
    assert before["ablate/leave-one-out"] == after["ablate/leave-one-out"]
    assert changed - {"ablate"} == {
        "probe", "learn", "judge", "plant", "interpret", "score", "regrade", "cover", "categorise", "recategorise",
        "enrich", "output",
    }  # fmt: skip


def study(*dictionaries: object, probes: Sequence[str] = PROBES, **options: Any) -> Plan:
    registry = read_registry(find_registry(None))
    rows = TypeAdapter(StudyConfig.model_fields["dictionaries"].annotation).validate_python(dictionaries)
    changed = registry.studies["rank1-lora"].model_copy(update={"dictionaries": rows, "probes": tuple(probes)})
    registry = registry.model_copy(update={"studies": {"rank1-lora": changed}})
    return make_plan(registry, Manager(registry), "rank1-lora", **options)


def on(probe: str, name: str = "mine", learner: str = "batch-topk") -> dict[str, str]:
    return {"name": name, "learner": learner, "on": probe}


def test_a_dictionary_is_fitted_on_any_probe_under_its_own_name() -> None:
    p = study("batch-topk", on("mlp-neurons"))
    assert p.step("learn/mine").inputs == ("probe/mlp-neurons", "train/rank1-lora")
    assert (p.step("learn/mine").plugin, p.step("learn/mine").label) == ("batch-topk", "mine")
    assert {"judge/mine", "interpret/lexical/mine", "score/lexical/mine"} <= {s.name for s in p.steps}
    assert p.step("learn/mine").config == p.step("learn/batch-topk").config
    assert p.step("learn/mine").key != p.step("learn/batch-topk").key


def test_a_dictionarys_own_settings_come_after_its_learners() -> None:
    p = study("batch-topk", on("mlp-neurons"), settings={"batch-topk": {"k": 3, "steps": 7}, "mine": {"k": [5, 6]}})
    read = {s.label: (s.config.k, s.config.steps) for s in p.steps if s.kind == "learn"}  # type: ignore[attr-defined]
    assert read == {"batch-topk": (3, 7), "mine@k=5": (5, 7), "mine@k=6": (6, 7)}


def test_a_source_has_the_control_that_was_read_and_fitted_in_the_same_way() -> None:
    directions = {"adapter-activations": "random-directions"}
    assert study("batch-topk").controls == directions
    assert study("batch-topk", on("random-directions")).controls == {**directions, "batch-topk": "mine"}
    assert study("batch-topk", on("mlp-neurons")).controls == directions, "neurons are no control"
    assert study("batch-topk", on("random-directions", learner="abs-topk")).controls == directions
    other = {"settings": {"mine": {"k": 9}}}
    assert study("batch-topk", on("random-directions"), **other).controls == directions, "another k is another thing"
    grid = {"settings": {"batch-topk": {"k": [3, 4]}}}
    assert study("batch-topk", on("random-directions"), **grid).controls == {
        **directions, "batch-topk@k=3": "mine@k=3", "batch-topk@k=4": "mine@k=4",
    }  # fmt: skip
    assert study(probes=["adapter-activations", "shuffled-directions", "random-directions"]).controls == {
        "adapter-activations": "shuffled-directions"
    }, "of two the first of the study"


def test_a_dictionary_of_the_study_is_asked_for_by_its_name() -> None:
    assert [s.name for s in plan("batch-topk-on-random").steps][-2:] == [
        "learn/batch-topk-on-random", "judge/batch-topk-on-random",
    ]  # fmt: skip
    assert [s.name for s in plan("mlp-neurons").steps] == ["probe/mlp-neurons"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([on("no-such")], "no-such.*add it to the study's probes"),
        ([on("shuffled-directions")], "probe of this study for 'mine'.*add it to the study's probes"),
        ([on("mlp-neurons", learner="batch-topkk")], "nearest: 'batch-topk'"),
        ([on("mlp-neurons", learner="lexical")], "'lexical' is of stage interpret"),
        ([on("mlp-neurons", name="pca")], "cannot be called 'pca'"),
        ([on("mlp-neurons", name="judging")], "cannot be called 'judging'"),
    ],
)
def test_a_dictionary_that_cannot_be_is_refused_with_the_cure(rows: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study(*rows)


BASELINES = ("pca", "ica", "k-means", "random-dictionary", "identity", "frozen-decoder")


def _configs(target: str, *pairs: str, preset: str | None = None) -> dict[str, dict[str, Any]]:
    registry = read_registry(find_registry(None))
    plan = make_plan(registry, Manager(registry), target, preset=preset, settings=parse_settings(pairs))
    return {step.label: step.config.model_dump() for step in plan.steps if step.kind == "learn"}


@pytest.mark.parametrize(("preset", "k"), [(None, 4), ("tiny", 4), ("paper-text", 16)])
def test_baselines_have_the_k_and_expansion_of_the_learned_dictionary(preset: str | None, k: int) -> None:
    configs = _configs("rank1-lora", preset=preset)
    assert {name: configs[name]["k"] for name in BASELINES} == dict.fromkeys(BASELINES, k)
    changed = _configs("rank1-lora", "batch-topk.k=8", "batch-topk.expansion=2", preset=preset)
    assert {name: changed[name]["k"] for name in BASELINES} == dict.fromkeys(BASELINES, 8)
    assert changed["k-means"]["expansion"] == changed["random-dictionary"]["expansion"] == 2


def test_a_baseline_run_alone_is_the_studys() -> None:
    assert _configs("pca", "batch-topk.k=8")["pca"] == _configs("rank1-lora", "batch-topk.k=8")["pca"]


def test_a_baselines_own_settings_win_and_a_grid_is_not_inherited() -> None:
    configs = _configs("rank1-lora", "batch-topk.k=8", "k-means.k=3", "k-means.expansion=5")
    assert (configs["k-means"]["k"], configs["k-means"]["expansion"], configs["pca"]["k"]) == (3, 5, 8)
    swept = _configs("rank1-lora", "batch-topk.k=[2,4]", "batch-topk.expansion=2")
    assert {"batch-topk@k=2", "batch-topk@k=4", "pca", "k-means"} <= set(swept)
    assert swept["k-means"]["expansion"] == 2
