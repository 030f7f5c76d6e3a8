"""Group search: greedy orders and Shapley shares against their definitions over every subset."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.contract.context import RunContext
from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.records import AblationScore
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.ablations.cells import Cell
from harness_plugins.ablations.config import KLConfig
from harness_plugins.ablations.divergence import Divergence
from harness_plugins.ablations.documents import read_texts
from harness_plugins.ablations.group_search import GroupSearchConfig
from harness_plugins.ablations.group_search.ablation import GroupSearch

TRACES = tiny_traces(4)
NAMES = ("q_proj", "v_proj", "up_proj")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """An adapter on three projections of four layers."""
    folder = tmp_path_factory.mktemp("three")
    base = tiny_model(folder / "base", layers=4)
    return load_subject(base, ChatFormat(), tiny_adapter(base, folder / "adapter", target_modules=list(NAMES)))


@pytest.fixture(scope="module")
def value(three: Subject) -> dict[frozenset[str], float]:
    """KL per token of the response without each set of projections."""
    config = KLConfig(n_documents=3, floor_documents=0)
    texts = read_texts(three, TRACES, config, torch.Generator().manual_seed(7))
    sets = [frozenset(n for i, n in enumerate(NAMES) if mask >> i & 1) for mask in range(1, 8)]
    cells = [Cell("+".join(sorted(s)), "group", tuple(c for c in three.components if c.projection in s)) for s in sets]
    found = {c.item: s.kl_nats[:, 1:].sum() for c, s in Divergence(three, texts, config, 7).sweep(cells)}
    n = int(texts.n_tokens[:, 1:].sum())
    return {frozenset(): 0.0} | {s: float(found["+".join(sorted(s))]) / n for s in sets}


def search(
    subject: Subject, folder: Path, done: frozenset[str] = frozenset(), **settings: object
) -> list[AblationScore]:
    config = GroupSearchConfig.model_validate({"n_documents": 3, **settings})
    return list(GroupSearch(config).measure(subject, TRACES, RunContext(folder, seed=7, done=done)))


@pytest.mark.parametrize("direction", ["most-first", "least-first"])
def test_greedy_takes_the_extreme_at_every_place(
    three: Subject, value: dict[frozenset[str], float], tmp_path: Path, direction: str
) -> None:
    scores = search(three, tmp_path, methods=["greedy"], greedy=direction)
    assert [s.place for s in scores] == [1, 2, 3]
    off: frozenset[str] = frozenset()
    pick = max if direction == "most-first" else min
    for s in scores:
        expected = pick((n for n in NAMES if n not in off), key=lambda n: value[off | {n}])
        off |= {expected}
        assert s.group == expected
        assert s.kl_nats.value == pytest.approx(value[off], rel=1e-6)
        assert s.kl_nats.low <= s.kl_nats.value <= s.kl_nats.high
        assert s.n_components == 4 * len(off)


def test_shapley_shares_are_the_average_over_all_orders(
    three: Subject, value: dict[frozenset[str], float], tmp_path: Path
) -> None:
    shares = {s.group: s for s in search(three, tmp_path, methods=["shapley"])}
    orders = list(permutations(NAMES))
    for name in NAMES:
        before = [frozenset(order[: order.index(name)]) for order in orders]
        expected = np.mean([value[s | {name}] - value[s] for s in before])
        assert shares[name].kl_nats.value == pytest.approx(expected, rel=1e-5)
        assert "exact" in str(shares[name].reason)
    assert sum(s.kl_nats.value for s in shares.values()) == pytest.approx(value[frozenset(NAMES)], rel=1e-6)


def test_sampled_shares_add_up_and_agree_with_the_exact_ones(subject: Subject, tmp_path: Path) -> None:
    sampled = search(subject, tmp_path, methods=["shapley"], orders=3)
    assert all("6 orders" in str(s.reason) for s in sampled)
    (whole,) = [s for s in search(subject, tmp_path, methods=["greedy"]) if s.place == 7]
    assert sum(s.kl_nats.value for s in sampled) == pytest.approx(whole.kl_nats.value, rel=1e-6)
    for other in ("kl_nats_prompt", "kl_nats_all"):
        assert sum(getattr(s, other).value for s in sampled) == pytest.approx(getattr(whole, other).value, rel=1e-6)
    exact = {s.group: s.kl_nats.value for s in search(subject, tmp_path, methods=["shapley"], orders=2000)}
    inside = [s.kl_nats.low <= exact[s.group] <= s.kl_nats.high for s in sampled]
    assert sum(inside) >= 5  # of 7, with 95 % intervals that also allow for other documents


def test_blocks_of_layers_and_resuming(three: Subject, tmp_path: Path) -> None:
    scores = search(three, tmp_path, groups="blocks", probes=2, floor_documents=1)
    assert [s.item for s in scores] == ["greedy:1", "greedy:2", "shapley:L0-L1", "shapley:L2-L3"]
    assert [s.fisher_nats is None for s in scores] == [False, False, True, True]
    rest = search(three, tmp_path, frozenset({"greedy:1", "shapley:L0-L1"}), groups="blocks", probes=2)
    assert [s.item for s in rest] == ["greedy:2", "shapley:L2-L3"]
    assert [s.kl_nats for s in rest] == [scores[1].kl_nats, scores[3].kl_nats]


def test_one_group_cannot_be_searched(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 0 blocks"):
        search(subject, tmp_path, groups="blocks")
