"""A list for a field that takes one value is a grid: cells with keys of their own, nothing else touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.config import Config
from harness.errors import UsageError
from harness.study.grid import cells, swept_fields
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.step import Plan

READ_DICTIONARIES = ("ablate/attribute", "ablate/steer", "ablate/write-directions")
"""Ablations that read every dictionary."""


def manager() -> Manager:
    return Manager(read_registry(find_registry(None)))


def plan(target: str = "batch-topk", **settings: object) -> Plan:
    registry = read_registry(find_registry(None))
    given = {"batch-topk": {k: v for k, v in settings.items()}}
    return make_plan(registry, Manager(registry), target, settings=given)


def keys(p: Plan) -> dict[str, str]:
    return {s.name: s.key for s in p.steps}


def test_two_lists_make_all_combinations() -> None:
    found = cells(manager(), "batch-topk", [{"k": [8, 16, 32]}, {"expansion": [4, 8]}])
    assert [(c.config.k, c.config.expansion) for c in found] == [  # type: ignore[attr-defined]
        (8, 4), (16, 4), (32, 4), (8, 8), (16, 8), (32, 8),
    ]  # fmt: skip
    assert found[0].label == "expansion=4,k=8"
    assert len({c.label for c in found}) == 6


def test_no_list_is_one_cell_without_a_label() -> None:
    (cell,) = cells(manager(), "batch-topk", [{"k": 8}])
    assert cell.label == ""


def test_a_field_that_takes_a_list_is_not_swept() -> None:
    class Lists(Config):
        many: tuple[int, ...] = ()
        maybe: int | None = None
        word: str = ""

    class Names:
        def offer(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(row_config={}, registration=SimpleNamespace(config=Lists))

    layers = [{"many": [1, 2], "maybe": [1, None], "word": ["a", "b"]}]
    assert swept_fields(Names(), "x", layers) == {"maybe": [1, None], "word": ["a", "b"]}  # type: ignore[arg-type]


def test_a_later_layer_replaces_a_list() -> None:
    assert swept_fields(manager(), "batch-topk", [{"k": [1, 2]}, {"k": 3}]) == {}


def test_equal_values_are_one_cell() -> None:
    assert len(cells(manager(), "batch-topk", [{"k": [8, 8]}])) == 1


def test_every_cell_is_fitted_and_judged_and_shares_seed_and_inputs() -> None:
    steps = {s.name: s for s in plan(k=[2, 4]).steps}
    assert list(steps) == [
        "train/rank1-lora", "probe/adapter-activations",
        "learn/batch-topk@k=2", "judge/batch-topk@k=2", "learn/batch-topk@k=4", "judge/batch-topk@k=4",
    ]  # fmt: skip
    one, two = steps["learn/batch-topk@k=2"], steps["learn/batch-topk@k=4"]
    assert one.seed == two.seed
    assert one.inputs == two.inputs
    assert one.label == "batch-topk@k=2"
    assert steps["judge/batch-topk@k=2"].inputs[0] == one.name


def test_a_longer_grid_keeps_the_keys_of_the_shorter() -> None:
    short, long = keys(plan(k=[2, 4])), keys(plan(k=[2, 4, 8]))
    assert short.items() <= long.items()
    assert len(set(long.values())) == len(long)


def test_the_other_steps_of_a_study_keep_their_keys() -> None:
    whole, swept = keys(plan("rank1-lora")), keys(plan("rank1-lora", k=[2, 4]))
    over_all = (
        "categorise",
        "recategorise",
        "regrade",
        "cover",
        "enrich",
        "output",
        *READ_DICTIONARIES,
    )  # read every source
    shared = {n for n in whole if "batch-topk" not in n and not n.startswith(over_all)}
    assert all(whole[n] == swept[n] for n in shared)
    assert {n for n in swept if n.startswith("interpret/")} >= {
        "interpret/lexical/batch-topk@k=2", "interpret/lexical/batch-topk@k=4",
    }  # fmt: skip


def test_a_bad_value_of_a_grid_is_named() -> None:
    with pytest.raises(UsageError, match=r"batch-topk\.k=0"):
        plan(k=[4, 0])
    with pytest.raises(UsageError, match=r"batch-topk\.k=\[\]: a grid over no values"):
        plan(k=[])


def test_only_dictionaries_are_swept() -> None:
    registry = read_registry(find_registry(None))
    with pytest.raises(UsageError, match=r"rank1-lora\.rank=\[1, 2\].*only dictionaries are swept.*once per value"):
        make_plan(registry, Manager(registry), "rank1-lora", settings={"rank1-lora": {"rank": [1, 2]}})


def test_baselines_are_judged_and_explained_only_when_asked() -> None:
    registry = read_registry(find_registry(None))
    names = [s.name for s in make_plan(registry, Manager(registry), "rank1-lora").steps]
    assert {"learn/pca", "judge/pca"} <= set(names)
    assert "interpret/lexical/pca" not in names
    asked = make_plan(registry, Manager(registry), "rank1-lora", settings={"judging": {"explain_baselines": True}})
    assert "interpret/lexical/pca" in [s.name for s in asked.steps]


def test_judging_otherwise_fits_nothing_again() -> None:
    registry = read_registry(find_registry(None))
    before = keys(make_plan(registry, Manager(registry), "rank1-lora"))
    after = keys(make_plan(registry, Manager(registry), "rank1-lora", settings={"judging": {"second_fit": False}}))
    changed = {n for n in before if before[n] != after[n]}
    assert {n.partition("/")[0] for n in changed} == {"judge", "ablate"}
    assert {n for n in changed if n.startswith("ablate/")} == {"ablate/steer"}, "it pushes the latents that were judged"
