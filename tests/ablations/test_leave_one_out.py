"""What `leave-one-out` yields, in which order of work, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.contract.context import RunContext
from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.records import AblationScore, Trace
from harness.testing import tiny_traces
from harness_plugins.ablations.cells import block_cells, cells, group_cells
from harness_plugins.ablations.leave_one_out import LeaveOneOutConfig
from harness_plugins.ablations.leave_one_out.ablation import LeaveOneOut

TRACES = tiny_traces(6)


def measure(
    subject: Subject, folder: Path, *, traces: Sequence[Trace] = TRACES, done: Sequence[str] = (), **settings: object
) -> list[AblationScore]:
    plugin = LeaveOneOut(LeaveOneOutConfig.model_validate({"n_documents": 3, **settings}))
    return list(plugin.measure(subject, traces, RunContext(folder, seed=1, done=frozenset(done))))


def test_every_cell_comes_once_and_a_second_attempt_goes_on(subject: Subject, tmp_path: Path) -> None:
    scores = measure(subject, tmp_path)
    assert sorted(s.item for s in scores) == sorted(
        c.item for c in cells(subject.components, LeaveOneOutConfig().scopes)
    )
    assert len({s.item for s in scores}) == len(scores) == 1 + 2 + 7 + 14
    assert all(s.kl_nats.low <= s.kl_nats.value <= s.kl_nats.high and s.n_documents == 3 for s in scores)
    assert {(s.method, s.chosen_as) for s in scores} == {("exact", "all")}
    last = scores[-1]
    assert (last.item, last.layer, last.projection, last.rank_index) == ("component:L1.down_proj", 1, "down_proj", 0)
    rest = measure(subject, tmp_path, done=[s.item for s in scores[:-2]])
    assert rest == scores[-2:]


def test_a_score_has_its_segments_its_documents_and_its_cross_entropy(subject: Subject, tmp_path: Path) -> None:
    (score,) = measure(subject, tmp_path, scopes=["adapter"], floor_documents=2)
    kl = {s: getattr(score, f"kl_nats_{s}") for s in ("prompt", "trace", "answer", "all")}
    n = {s: getattr(score, f"n_tokens_{s}") for s in ("prompt", "trace", "answer", "all")}
    assert n["trace"] + n["answer"] == score.n_tokens == n["all"] - n["prompt"]
    total = {s: kl[s].value * n[s] for s in kl}
    assert total["trace"] + total["answer"] == pytest.approx(score.kl_nats.value * score.n_tokens)
    assert total["prompt"] + score.kl_nats.value * score.n_tokens == pytest.approx(total["all"])
    assert all(e.low < e.value < e.high for e in (*kl.values(), score.kl_nats))
    assert score.document_kl_sums is not None
    assert score.document_n_tokens is not None
    for segment, name in {"prompt": "prompt", "think": "trace", "answer": "answer"}.items():
        assert sum(score.document_kl_sums[segment]) == pytest.approx(total[name])
        assert sum(score.document_n_tokens[segment]) == n[name]
    assert score.reason is None
    assert score.ce_nats is not None
    assert score.ce_change_nats is not None
    assert score.ce_change_nats.low <= score.ce_change_nats.value
    assert score.null_floor_nats is not None
    assert score.engine == "prefix reuse, modules, float32"


def test_what_was_not_read_is_absent_and_not_zero(subject: Subject, tmp_path: Path) -> None:
    (score,) = measure(subject, tmp_path, scopes=["adapter"], max_tokens=10, floor_documents=0, probes=0)
    assert (score.kl_nats_answer, score.n_tokens_answer) == (None, 0)
    assert (score.n_tokens_prompt, score.n_tokens, score.n_tokens_all) == (15, 15, 30)
    assert (score.fisher_nats, score.n_draws, score.null_floor_nats) == (None, None, None)
    (single,) = measure(subject, tmp_path, scopes=["adapter"], traces=TRACES[:1])
    assert single.kl_nats_trace is not None
    assert (single.kl_nats_trace.low, single.kl_nats_trace.high) == (-math.inf, math.inf), "one document bounds nothing"


def test_the_headline_is_the_brute_force_over_the_response(wide: Subject, brute_force: Any, tmp_path: Path) -> None:
    """Its masks are made of the text. Norms compute in float32 also in a float64 model: some 1e-6 of these KLs."""
    oracle = brute_force(wide)
    by_item = {c.item: c for c in cells(wide.components, LeaveOneOutConfig().scopes)}
    scores = measure(wide, tmp_path, n_documents=6, probes=0, floor_documents=0)
    assert len(scores) == len(by_item)
    for score in scores:
        sums, n_tokens = oracle.response_kl(by_item[score.item].off)
        assert score.kl_nats.value == pytest.approx(sums.sum() / n_tokens.sum(), abs=1e-6, rel=0), score.item
        assert score.n_tokens == n_tokens.sum()


def test_few_tokens_of_the_response_are_said(subject: Subject, tmp_path: Path) -> None:
    """A prompt that is longer than its response. Every record has the reason, those that are estimated too."""
    long = [t.model_copy(update={"question": t.question * 4}) for t in TRACES]
    for method in ("exact", "fisher"):
        for score in measure(subject, tmp_path, traces=long, floor_documents=0, method=method):
            assert score.n_tokens < (score.n_tokens_all or 0) / 2
            few = f"only {score.n_tokens} of {score.n_tokens_all} measured tokens are of the response"
            assert few in str(score.reason)
    half = measure(subject, tmp_path, traces=long, floor_documents=0, max_tokens=70)
    assert {(s.n_tokens, s.n_tokens_all, s.reason) for s in half} == {(105, 210, None)}


def test_screening_measures_the_largest_estimates_and_an_audit(subject: Subject, tmp_path: Path) -> None:
    settings = {"method": "screen", "top_share": 0.2, "audit_share": 0.15, "probes": 16}
    scores = measure(subject, tmp_path, **settings)
    exact = measure(subject, tmp_path, probes=16)
    assert sorted(s.item for s in scores) == sorted(s.item for s in exact)
    single = [s for s in scores if s.scope == "component"]
    top, audit = ([s for s in single if s.chosen_as == how] for how in ("top", "audit"))
    assert (len(top), len(audit)) == (3, 2)
    guessed = [s for s in single if s.method == "fisher"]
    assert len(guessed) == 14 - 5
    assert min(s.fisher_nats.value for s in top) >= max(s.fisher_nats.value for s in guessed + audit)
    assert all(s.kl_nats == s.fisher_nats and s.reason and s.chosen_as is None for s in guessed)
    assert all(s.method == "exact" for s in scores if s.scope != "component")
    by_item = {s.item: s for s in exact}
    assert all(s.kl_nats == by_item[s.item].kl_nats for s in (*top, *audit))
    rest = measure(subject, tmp_path, done=[s.item for s in scores[:-3]], **settings)
    assert rest == scores[-3:]


def test_auto_screens_where_there_are_many_components(subject: Subject, tmp_path: Path) -> None:
    few, many = (measure(subject, tmp_path, exact_up_to=n, scopes=["component"]) for n in (14, 13))
    assert {s.method for s in few} == {"exact"}
    assert {s.method for s in many} == {"exact", "fisher"}
    assert {s.method for s in measure(subject, tmp_path, exact_up_to=13, probes=0)} == {"exact"}
    assert {s.method for s in measure(subject, tmp_path, method="fisher")} == {"fisher"}


def test_screening_without_probes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs probes"):
        LeaveOneOutConfig(method="screen", probes=0)


def test_groups_partition_the_components(wide: Subject) -> None:
    groups = group_cells(wide.components)
    blocks = [g for g in groups if "projection" not in g.where]
    assert [g.where["group"] for g in blocks] == ["attention", "mlp"]
    assert sorted(c.name for g in blocks for c in g.off) == sorted(c.name for c in wide.components)
    single = [g for g in groups if "projection" in g.where]
    assert sorted(c.name for g in single for c in g.off) == sorted(c.name for c in wide.components)


def test_blocks_of_layers_partition_them(subject: Subject, wide: Subject) -> None:
    assert block_cells(subject.components, 8) == []
    assert block_cells(wide.components, 8) == []
    from dataclasses import replace

    deep = [
        replace(c, layer=layer, name=f"L{layer}.{c.projection}") for layer in range(19) for c in wide.components[:2]
    ]
    found = block_cells(deep, 8)
    assert len(found) == 8
    assert [c for cell in found for c in cell.off] == deep
    assert {len({c.layer for c in cell.off}) for cell in found} == {2, 3}
    assert found[0].where == {"group": "L0-L1"}


def test_a_model_without_adapter_is_refused(subject: Subject, tmp_path: Path) -> None:
    bare = load_subject(subject.base, ChatFormat())
    with pytest.raises(ModelError, match="no adapter"):
        measure(bare, tmp_path)
