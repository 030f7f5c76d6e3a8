"""A study of several adapters: its steps, their keys, and what the comparison finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from harness.activations.store import open_set
from harness.contract.context import RunContext
from harness.errors import RegistryError, UnknownName, UsageError
from harness.model.attach import attach_adapter
from harness.model.subject import load_base
from harness.records import Checkpoint, ModelRef, ModuleOverlap, Record, SharedFeature
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.state import RunState
from harness.study.step import Plan
from harness.study.steps import kind_of
from harness.study.study_config import AdapterRow, StudyConfig
from harness.testing import tiny_adapter, tiny_model, tiny_traces

PROBES = ("adapter-activations", "random-directions")


def study(*adapters: object, manager: Manager | None = None, probes: Sequence[str] = PROBES, **options: Any) -> Plan:
    registry = read_registry(find_registry(None))
    annotation: Any = StudyConfig.model_fields["adapters"].annotation
    rows: tuple[AdapterRow, ...] = TypeAdapter(annotation).validate_python(adapters)
    changed = registry.studies["several-adapters"].model_copy(update={"adapters": rows, "probes": tuple(probes)})
    own = {"rank1-lora", "full-finetune", *(row.name for row in rows)}
    update = {
        "ablations": ("differences", "write-directions"),
        "interpreters": ("lexical",),
        "set": {key: value for key, value in changed.set.items() if key.partition(".")[0] in own},
    }
    ablated = changed.model_copy(update=update)
    registry = registry.model_copy(update={"studies": {"several-adapters": ablated}})
    return make_plan(registry, manager or Manager(registry), "several-adapters", **options)


def named(name: str, trainer: str = "rank1-lora") -> dict[str, str]:
    return {"name": name, "trainer": trainer}


def test_the_steps_of_one_adapter_are_the_same_whatever_others_stand_beside_it() -> None:
    alone, beside = study(), study(named("other"), named("rank2"))
    of_others = {
        "train/other", "evaluate/other", "probe/other", "train/rank2", "evaluate/rank2", "probe/rank2",
        "compare/adapters",
    }  # fmt: skip
    assert {s.name for s in beside.steps} - {s.name for s in alone.steps} == of_others
    assert tuple(s for s in beside.steps if s.name not in of_others) == alone.steps, "with their keys and seeds"
    assert "compare/adapters" not in {s.name for s in alone.steps}


def test_each_further_adapter_has_its_own_settings_key_and_seed() -> None:
    p = study(named("twin"), named("rank2"), settings={"rank1-lora": {"epochs": 7}, "rank2": {"rank": 2}})
    trained = {s.label: s for s in p.steps if s.kind == "train"}
    settings = {name: step.config.model_dump() for name, step in trained.items() if name != "full-finetune"}
    assert {n: (c["rank"], c["epochs"]) for n, c in settings.items()} == {
        "rank1-lora": (1, 7), "twin": (1, 7), "rank2": (2, 7),
    }  # fmt: skip
    for name in ("key", "seed"):
        assert len({getattr(trained[n], name) for n in settings}) == 3, "the same settings twice are two adapters"
    assert p.step("evaluate/rank2").inputs == p.step("probe/rank2").inputs == ("train/rank2",)
    assert p.step("compare/adapters").inputs == (
        "train/rank1-lora", "train/twin", "train/rank2", "probe/adapter-activations", "probe/twin", "probe/rank2",
        "probe/random-directions",
    )  # fmt: skip


def test_an_adapter_is_named_by_its_trainer_unless_that_is_the_first_ones() -> None:
    settings = {"pretrained-adapter": {"path": "package://harness/organism/checkpoint"}}
    assert (
        study("pretrained-adapter", settings=settings).step("train/pretrained-adapter").plugin == "pretrained-adapter"
    )
    for name in ("rank1-lora", "full-finetune", "full", "base", "adapter", "lexical", "data"):
        with pytest.raises(UsageError, match=f"an adapter cannot be called '{name}'"):
            study(named(name))
    with pytest.raises(UnknownName, match="no plugin of stage train 'lexical'"):
        study(named("other", "lexical"))


def test_two_of_one_name_are_refused_with_the_line(tmp_path: Path) -> None:
    text = find_registry(None).read_text().replace("name: rank2, trainer", "name: other-seed, trainer")
    (tmp_path / "registry.yaml").write_text(text)
    with pytest.raises(RegistryError, match=r"adapters\.1\.name: two dictionaries or adapters are called 'other-seed'"):
        read_registry(tmp_path / "registry.yaml")


def test_a_single_plugin_is_planned_without_the_others() -> None:
    registry = read_registry(find_registry(None))
    several = registry.model_copy(update={"default_study": "several-adapters"})
    steps = make_plan(several, Manager(several), "adapter-activations").steps
    assert [s.name for s in steps] == ["train/rank1-lora", "probe/adapter-activations"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def compared(base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunState, dict[str, Checkpoint]]:
    """Adapters of rank 1, of rank 3, and of attention alone; their scalars read by the study's own steps."""
    folder = tmp_path_factory.mktemp("study")
    made = {
        "train/rank1-lora": tiny_adapter(base, folder / "1"),
        "train/rank3": tiny_adapter(base, folder / "3", rank=3, seed=3),
        "train/attention": tiny_adapter(base, folder / "a", seed=4, target_modules=["q_proj", "o_proj"]),
    }
    manager = Manager(read_registry(find_registry(None)))
    settings = {"model": {"path": base.path}, "comparison": {"shuffles": 19}}
    plan = study(named("rank3"), named("attention"), manager=manager, settings=settings)
    folders = {step.name: folder / step.name.replace("/", "-") for step in plan.steps}
    state = RunState(plan, manager, folders, stored=lambda step, record_class: [])
    state._traces = list(tiny_traces(6))
    state.outputs = {name: {"Checkpoint": checkpoint} for name, checkpoint in made.items()}
    for step in (s for s in plan.steps if s.kind == "probe"):
        folders[step.name].mkdir(parents=True)
        first = next(iter(kind_of(step).execute(step, state, RunContext(folders[step.name], step.seed))))
        state.outputs[step.name] = {"ActivationSet": first}
    return state, made


def records(state: RunState, done: frozenset[str] = frozenset()) -> list[Record]:
    step = state.plan.step("compare/adapters")
    return list(kind_of(step).execute(step, state, RunContext(state.folders[step.name], step.seed, done=done)))


def test_weights_reads_and_writes_are_compared_as_if_multiplied_out(
    compared: tuple[RunState, dict[str, Checkpoint]], base: ModelRef
) -> None:
    """float32 factors keep five digits. Angles between spaces of different ranks are as many as the smaller rank."""
    from scipy.linalg import subspace_angles

    state, made = compared
    dense = {}
    for name, checkpoint in zip(("adapter", "rank3", "attention"), made.values(), strict=True):
        model = attach_adapter(load_base(base), str(checkpoint.path))
        dense[name] = {
            path: module.get_delta_weight("default").double().numpy()
            for path, module in model.named_modules()
            if hasattr(module, "get_delta_weight")
        }
    rows = [r for r in records(state) if isinstance(r, ModuleOverlap)]
    pairs = {(r.first, r.second) for r in rows}
    assert pairs == {("adapter", "rank3"), ("adapter", "attention"), ("rank3", "attention")}
    assert len(rows) == 14 + 4 + 4
    for row in rows:
        w, v = dense[row.first][row.module], dense[row.second][row.module]
        norms = np.linalg.norm(w), np.linalg.norm(v)
        assert row.weight_cosine == pytest.approx((w * v).sum() / norms[0] / norms[1], abs=1e-5)
        assert row.weight_null == pytest.approx(1 / np.sqrt(w.size))
        assert row.norm_ratio == pytest.approx(norms[1] / norms[0], rel=1e-5)
        (u, _, t), (s, _, r) = (np.linalg.svd(x) for x in (w, v))
        i, j = (np.linalg.matrix_rank(x, tol=1e-4) for x in (w, v))
        assert {i, j} <= {1, 3}
        writes = np.cos(subspace_angles(u[:, :i], s[:, :j])) ** 2
        reads = np.cos(subspace_angles(t[:i].T, r[:j].T)) ** 2
        assert row.write_overlap == pytest.approx(writes.mean(), abs=1e-5)
        assert row.read_overlap == pytest.approx(reads.mean(), abs=1e-5)
        assert (row.write_null, row.read_null) == (max(i, j) / w.shape[0], max(i, j) / w.shape[1])


def test_partners_are_found_in_the_stored_scalars(compared: tuple[RunState, dict[str, Checkpoint]]) -> None:
    """Against np.corrcoef over all ranked tokens; rank 3 has three candidates for every one of rank 1."""
    state, _ = compared
    values, columns = {}, {}
    for name, step in {"adapter": "adapter-activations", "rank3": "rank3", "random": "random-directions"}.items():
        activations = state.outputs[f"probe/{step}"]["ActivationSet"]
        assert activations.source == step
        documents = list(open_set(activations).documents())
        values[name] = np.concatenate([d.values[d.ranked] for d in documents]).astype(np.float64)
        columns[name] = activations.columns
    rows = [r for r in records(state) if isinstance(r, SharedFeature)]
    assert len(rows) == 2 * (14 + 42 + 4), "each pair in both directions"
    for first, second in pairwise(("adapter", "rank3", "adapter")):
        of_pair = [r for r in rows if (r.first, r.second) == (first, second)]
        assert [r.component for r in of_pair] == list(columns[first])
        n = len(columns[first])
        dense = np.corrcoef(values[first].T, values[second].T)[:n, n:]
        random = np.abs(np.corrcoef(values[first].T, values["random"].T)[:n, n:]).max(1)
        for row, correlations, chance in zip(of_pair, dense, random, strict=True):
            assert row.partner == columns[second][int(np.abs(correlations).argmax())]
            assert abs(row.correlation or 0) == pytest.approx(np.abs(correlations).max(), abs=1e-4)
            assert row.random == pytest.approx(chance, abs=1e-4)
            assert (row.n_candidates, row.n_tokens) == (len(columns[second]), len(values[first]))


def test_it_goes_on_where_it_stopped_and_draws_the_same(compared: tuple[RunState, dict[str, Checkpoint]]) -> None:
    state, _ = compared
    whole = records(state)
    items = [str(vars(r)["item"]) for r in whole]
    assert records(state, frozenset(items[:50])) == whole[50:]


def test_adapters_without_a_module_in_common_share_features_alone(
    compared: tuple[RunState, dict[str, Checkpoint]], base: ModelRef, tmp_path: Path
) -> None:
    state, made = compared
    elsewhere = tiny_adapter(base, tmp_path / "mlp", target_modules=["up_proj"])
    other = replace(state, outputs={**state.outputs, "train/attention": {"Checkpoint": elsewhere}})
    only_attention = {**other.outputs, "train/rank1-lora": {"Checkpoint": made["train/attention"]}}
    pairs = {
        (r.first, r.second) for r in records(replace(other, outputs=only_attention)) if isinstance(r, ModuleOverlap)
    }
    assert pairs == {("adapter", "rank3"), ("rank3", "attention")}


def test_a_full_fine_tune_is_no_adapter(compared: tuple[RunState, dict[str, Checkpoint]]) -> None:
    state, made = compared
    full = made["train/rank3"].model_copy(update={"kind": "full"})
    with pytest.raises(UsageError, match="train/rank3 makes a full model, and only adapters are compared"):
        records(replace(state, outputs={**state.outputs, "train/rank3": {"Checkpoint": full}}))
