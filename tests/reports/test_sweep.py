"""What the reports say of how ablations were measured, of attention against MLP, and of group searches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from sqlalchemy import Connection

from harness import stats
from harness.records import AblationScore
from harness.reports.components import components
from harness.reports.search import searches
from harness.reports.sweep import sweeps
from harness.reports.totals import totals
from harness.store.writer import Store


@pytest.fixture
def full(store: Store, synthetic: ModuleType) -> Iterator[Connection]:
    synthetic.fill(store)
    with store.engine.connect() as connection:
        yield connection


def store_sweep(store: Store, synthetic: ModuleType, scores: list[AblationScore]) -> None:
    run = store.begin_run(
        study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE, device="cpu", model="m", paper_benchmarks={}
    )
    step, _ = store.begin_step(run, 0, **synthetic.step_values("ablate/leave-one-out", "ablate"))
    store.write_many(step, scores)
    store.finish_step(step, status="done", wall_s=1.0, output={})


def test_estimates_are_compared_with_what_was_measured(full: Connection) -> None:
    (row,) = sweeps(full, 1)
    cells = [r for r in components(full, 1) if r.scope == "component"]
    assert (row.n_components, row.n_exact, row.n_top, row.n_audit, row.n_draws) == (28, 28, 0, 0, 64)
    pairs = [(r.fisher_nats.value, r.kl_nats.value) for r in cells if r.fisher_nats]
    assert row.spearman == pytest.approx(stats.spearman([a for a, _ in pairs], [b for _, b in pairs]))
    ratios = [fisher / exact for fisher, exact in pairs]
    assert row.ratio_median == pytest.approx(np.median(ratios))
    assert (row.audit_spearman, row.audit_reason) == (None, "every component was measured: there is no audit")
    below = [r for r in cells if r.below_floor]
    assert row.n_below_floor == len(below) > 0
    assert {r.layer for r in below} == {0}
    assert row.null_floor_max_nats == 1e-3


def test_a_screened_sweep_has_an_audit_and_marks_what_was_not_measured(store: Store, synthetic: ModuleType) -> None:
    made = []
    for i in range(20):
        chosen = "top" if i < 4 else "audit" if i < 8 else None
        cell = synthetic.ablation("component", 1.0 - 0.05 * i, layer=i, projection="q_proj")
        values = synthetic.measured(cell.kl_nats.value, 1) | {"group": "attention", "chosen_as": chosen}
        if chosen is None:
            values |= {"method": "fisher", "reason": "estimated", "document_kl_sums": None, "document_n_tokens": None}
        made.append(cell.model_copy(update=values))
    store_sweep(store, synthetic, made)
    with store.engine.connect() as connection:
        (row,) = sweeps(connection, 1)
        (total,) = totals(connection, 1)
        cells = components(connection, 1)
    assert (row.n_components, row.n_exact, row.n_top, row.n_audit) == (20, 8, 4, 4)
    assert (row.spearman, row.audit_spearman) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (total.sum_nats.low, total.together_nats) == (-math.inf, None)
    assert "estimated, not measured" in str(total.reason)
    assert {(r.method, r.below_floor) for r in cells} == {("exact", False), ("fisher", None)}


def test_an_adapter_without_probes_or_floor_says_so(store: Store, synthetic: ModuleType) -> None:
    store_sweep(store, synthetic, [synthetic.ablation("component", 0.1, layer=0, projection="q_proj")])
    with store.engine.connect() as connection:
        (row,) = sweeps(connection, 1)
    assert (row.spearman, row.spearman_reason) == (None, "no Fisher probes were run")
    assert (row.n_below_floor, row.reason) == (None, "no null floor was measured")


def test_blocks_add_up_their_components_with_an_interval_over_documents(full: Connection) -> None:
    rows = {r.group: r for r in totals(full, 1)}
    assert list(rows) == ["attention", "mlp"]
    cells = [r for r in components(full, 1) if r.group == "mlp"]
    assert rows["mlp"].n_components == len(cells) == 12
    assert rows["mlp"].sum_nats.value == pytest.approx(sum(r.kl_nats.value for r in cells))
    per_document = rows["mlp"].sum_nats.value * (0.5 + np.arange(16) / 15)
    expected = stats.ratio_over_documents(per_document * 1280, [1280.0] * 16)
    assert (rows["mlp"].sum_nats.low, rows["mlp"].sum_nats.high) == pytest.approx((expected.low, expected.high))
    assert rows["mlp"].together_nats
    assert rows["mlp"].together_nats.value == 0.43
    assert sum(r.share_of_sum or 0 for r in rows.values()) == pytest.approx(1)


def test_shapley_shares_add_up_to_the_adapter(full: Connection) -> None:
    rows = searches(full, 1)
    assert [(r.method, r.place, r.group) for r in rows] == [
        ("greedy", 1, "mlp"), ("greedy", 2, "attention"), ("shapley", None, "mlp"), ("shapley", None, "attention")
    ]  # fmt: skip
    assert sum(r.share_of_adapter_kl or 0 for r in rows if r.method == "shapley") == pytest.approx(1)
    assert rows[0].share_of_adapter_kl == pytest.approx(0.43 / 0.5)


def test_another_segment_changes_numbers_ranks_and_what_is_said(full: Connection) -> None:
    """In the synthetic run the prompt's KL falls with the layer, faster than the response's."""
    response, prompt = (components(full, 1, segment=s) for s in ("response", "prompt"))  # type: ignore[arg-type]
    assert {r.segment for r in response} == {"response"}
    by_name = {r.component: r for r in response if r.scope == "component"}
    assert {r.component for r in prompt} == set(by_name), "where no prompt was measured, there is no row"
    for row in prompt:
        assert row.kl_nats.value == by_name[row.component].kl_nats_prompt.value  # type: ignore[union-attr]
        assert (row.n_tokens, by_name[row.component].n_tokens) == (4096, 20480)
        assert (row.fisher_nats, row.null_floor_nats, row.below_floor) == (None, None, None)
    (headline,), (of_all,) = (sweeps(full, 1, segment=s) for s in ("response", "all"))  # type: ignore[arg-type]
    kls = [(r.kl_nats.value, r.kl_nats_all.value) for r in by_name.values() if r.kl_nats_all]
    assert headline.spearman_all == pytest.approx(stats.spearman([a for a, _ in kls], [b for _, b in kls]))
    assert of_all.spearman_all == pytest.approx(1)
    assert (of_all.spearman, of_all.spearman_reason) == (None, "Fisher probes estimate the KL over the response")
    assert components(full, 1, segment="answer") == []


def test_sums_of_another_segment_are_its_documents(full: Connection) -> None:
    headline, prompt = ({r.group: r for r in totals(full, 1, segment=s)} for s in ("response", "prompt"))  # type: ignore[arg-type]
    for group, row in prompt.items():
        assert row.sum_nats == headline[group].sum_nats_prompt
        cells = [r for r in components(full, 1, segment="prompt") if r.group == group]
        assert row.sum_nats.value == pytest.approx(sum(r.kl_nats.value for r in cells))
        assert row.together_nats is None, "the synthetic groups have no KL over the prompt"
        # Every document has the same KL over its prompt.
        assert (row.sum_nats.low, row.sum_nats.high) == pytest.approx((row.sum_nats.value,) * 2)
