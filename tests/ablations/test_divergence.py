"""KL of ablations against a brute force that shares nothing with it, and what the plugins yield."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.components import Component
from harness.model.subject import Subject, load_subject
from harness.records import AblationScore, EvaluationResult
from harness.stages import EvaluateConfig, RunContext
from harness.testing import Architecture, tiny_adapter, tiny_model, tiny_traces
from harness_plugins.ablations.config import KLConfig
from harness_plugins.ablations.divergence import Divergence, choose
from harness_plugins.ablations.groups import GroupsConfig
from harness_plugins.ablations.leave_one_out import LeaveOneOutConfig
from harness_plugins.ablations.sweeps import Groups, LeaveOneOut, cells, group_cells

CHAT = ChatFormat()
TRACES = tiny_traces(6)


def _subject(folder: Path, architecture: Architecture = "qwen2", **lora: Any) -> Subject:
    base = tiny_model(folder / "base", architecture)
    return load_subject(base, CHAT, tiny_adapter(base, folder / "adapter", **lora))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return _subject(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module", params=["llama-r2", "gpt2"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp(request.param)
    return _subject(folder, "gpt2") if request.param == "gpt2" else _subject(folder, "llama", rank=2)


def _log_softmax(logits: torch.Tensor) -> np.ndarray:
    x = logits.double().numpy()
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _logits(model: Any, subject: Subject, index: int, max_tokens: int) -> torch.Tensor:
    trace = sorted(TRACES, key=lambda t: t.id)[index]
    ids = CHAT.document(subject.tokenizer, trace).ids[:max_tokens]
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def _brute_force(subject: Subject, off: Sequence[Component], max_tokens: int = 2048) -> list[float]:
    """One document at a time, weights zeroed in a copy, numpy in float64."""
    ablated = copy.deepcopy(subject.model)
    for c in off:
        module = ablated.get_submodule(c.module)
        module.lora_A[c.adapter].weight.data[c.rank_index] = 0
        module.lora_B[c.adapter].weight.data[:, c.rank_index] = 0
    sums = []
    for i in range(len(TRACES)):
        p, q = (_log_softmax(_logits(m, subject, i, max_tokens)) for m in (subject.model, ablated))
        sums.append(float((np.exp(p) * (p - q)).sum()))
    return sums


def _divergence(subject: Subject, **settings: Any) -> Divergence:
    config = KLConfig(**settings)
    return Divergence(subject, TRACES, config, torch.Generator().manual_seed(0))


# The model itself runs in float32: with and without padding its logits (about 10) differ by some 1e-5, which is
# 1e-3 of a KL of 1e-4 nats per token at the worst.
TOLERANCE: dict[str, float] = {"rel": 2e-3, "abs": 1e-5}


def test_every_cell_equals_the_brute_force_and_is_not_zero(subject: Subject) -> None:
    ours = _divergence(subject, batch_size=4)
    for cell in cells(subject.components, ("adapter", "layer", "projection", "component")):
        sums = ours.kl_sums(cell.off)
        assert sums == pytest.approx(_brute_force(subject, cell.off), **TOLERANCE)
        assert min(sums) > 0, cell.item


def test_other_architectures_and_ranks(other: Subject) -> None:
    ours = _divergence(other, batch_size=3, max_tokens=40)
    assert ours.n_tokens == (40,) * len(TRACES)
    for c in other.components[::3]:
        assert ours.kl_sums([c]) == pytest.approx(_brute_force(other, [c], 40), **TOLERANCE)
    for cell in group_cells(other.components)[:2]:
        assert ours.kl_sums(cell.off) == pytest.approx(_brute_force(other, cell.off, 40), **TOLERANCE)


def test_chunks_of_tokens_change_nothing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    off = subject.components[:3]
    whole = _divergence(subject).kl_sums(off)
    monkeypatch.setattr("harness_plugins.ablations.divergence._CHUNK_BYTES", 4 * 300 * 7)
    assert _divergence(subject).kl_sums(off) == pytest.approx(whole, rel=1e-5)


def test_adapter_scope_is_the_distance_to_the_base(subject: Subject) -> None:
    ours = _divergence(subject).kl_sums(subject.components)
    for i, kl in enumerate(ours):
        p = _log_softmax(_logits(subject.model, subject, i, 2048))
        with subject.model.disable_adapter():
            q = _log_softmax(_logits(subject.model, subject, i, 2048))
        assert kl == pytest.approx(float((np.exp(p) * (p - q)).sum()), **TOLERANCE)


def test_mean_ablation_keeps_what_is_constant(subject: Subject, tmp_path: Path) -> None:
    """On one token the mean is the value itself, so that nothing changes; on more tokens it is another ablation."""
    single = Divergence(
        subject, TRACES[:1], KLConfig(mode="mean", max_tokens=1, n_documents=1), torch.Generator().manual_seed(0)
    )
    assert single.kl_sums(subject.components) == pytest.approx([0.0], abs=1e-9)
    mean = _divergence(subject, mode="mean").kl_sums(subject.components)
    assert mean != pytest.approx(_divergence(subject).kl_sums(subject.components))


def test_leave_one_out_yields_every_cell_once_and_resumes(subject: Subject, tmp_path: Path) -> None:
    plugin = LeaveOneOut(LeaveOneOutConfig(n_documents=3))
    scores = list(plugin.measure(subject, TRACES, RunContext(tmp_path, seed=1)))
    assert [s.item for s in scores[:4]] == ["adapter", "layer:0", "layer:1", "projection:q_proj"]
    assert len(scores) == 1 + 2 + 7 + 14
    assert len({s.item for s in scores}) == len(scores)
    assert all(s.kl_ci_low <= s.kl_nats <= s.kl_ci_high and s.n_documents == 3 for s in scores)
    last = scores[-1]
    assert (last.item, last.layer, last.projection, last.rank_index) == ("component:L1.down_proj", 1, "down_proj", 0)
    done = frozenset(s.item for s in scores[:-2])
    rest = list(plugin.measure(subject, TRACES, RunContext(tmp_path, seed=1, done=done)))
    assert rest == scores[-2:]


def test_documents_depend_on_the_seed_only() -> None:
    first = choose(TRACES, 3, torch.Generator().manual_seed(1))
    assert first == choose(TRACES, 3, torch.Generator().manual_seed(1))
    assert [t.id for t in first] == sorted(t.id for t in first)
    assert len(choose(TRACES, 99, torch.Generator())) == len(TRACES)


def test_groups_partition_the_components(subject: Subject, other: Subject) -> None:
    for components in (subject.components, other.components):
        groups = group_cells(components)
        blocks = [g for g in groups if "projection" not in g.where]
        assert [g.where["group"] for g in blocks] == ["attention", "mlp"]
        assert sorted(c.name for g in blocks for c in g.off) == sorted(c.name for c in components)
        single = [g for g in groups if "projection" in g.where]
        assert sorted(c.name for g in single for c in g.off) == sorted(c.name for c in components)


def test_groups_are_measured_and_benchmarked(subject: Subject, tmp_path: Path) -> None:
    run = RunContext(
        tmp_path,
        seed=0,
        evaluate=EvaluateConfig(benchmarks=("organism_chain",), limit=2),
        done=frozenset({"group:attention"}),
    )
    plugin = Groups(GroupsConfig(n_documents=2, benchmark_groups="blocks"))
    records = list(plugin.measure(subject, TRACES, run))
    scores = [r for r in records if isinstance(r, AblationScore)]
    results = [r for r in records if isinstance(r, EvaluationResult)]
    assert [s.item for s in scores] == [
        f"group:{n}" for n in ("mlp", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    assert {s.scope for s in scores} == {"group"}
    assert [r.item for r in results] == ["without-attention/organism_chain", "without-mlp/organism_chain"]
    assert [r.n_items for r in results] == [2, 2]
    assert results[0].samples[0].response != results[1].samples[0].response


def test_a_model_without_adapter_is_refused(subject: Subject, tmp_path: Path) -> None:
    bare = load_subject(subject.base, CHAT)
    with pytest.raises(ModelError, match="no adapter"):
        list(LeaveOneOut(LeaveOneOutConfig()).measure(bare, TRACES, RunContext(tmp_path, seed=0)))
