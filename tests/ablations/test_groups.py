"""What `groups` yields: KL and benchmarks of attention, MLP and projections."""

from __future__ import annotations

from pathlib import Path

from harness.contract.context import RunContext
from harness.contract.settings import EvaluateConfig
from harness.model.subject import Subject
from harness.records import AblationScore, EvaluationResult
from harness.testing import tiny_traces
from harness_plugins.ablations.groups import GroupsConfig
from harness_plugins.ablations.groups.ablation import Groups


def test_groups_are_measured_and_benchmarked(subject: Subject, tmp_path: Path) -> None:
    run = RunContext(
        tmp_path,
        seed=0,
        evaluate=EvaluateConfig(benchmarks=("organism_chain",), limit=2),
        done=frozenset({"group:attention"}),
    )
    plugin = Groups(GroupsConfig(n_documents=2, benchmark_groups="blocks"))
    records = list(plugin.measure(subject, tiny_traces(6), run))
    scores = [r for r in records if isinstance(r, AblationScore)]
    results = [r for r in records if isinstance(r, EvaluationResult)]
    assert [s.item for s in scores] == [
        f"group:{n}" for n in ("mlp", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    assert {s.scope for s in scores} == {"group"}
    assert [r.item for r in results] == ["without-attention/organism_chain", "without-mlp/organism_chain"]
    assert [r.n_items for r in results] == [2, 2]
    assert results[0].samples[0].response != results[1].samples[0].response
