"""Losses, and second gradings, in the reports: their unit, lower is better, and no place among accuracies."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats as oracle
from sqlalchemy import Connection

from harness.contract.cells import lines
from harness.records import EvaluationResult
from harness.render.across import _claims
from harness.render.compare import compare_runs
from harness.reports.common.benchmarks import FLEXIBLE, item_scores, of_answers
from harness.reports.generations import generations
from harness.reports.groups import groups
from harness.reports.recovery import REPORT, recovery
from harness.store.writer import Store

N = 12
BASE = 3 + 0.5 * np.random.default_rng(0).normal(size=N)
LOSSES = {"base": BASE, "adapter": BASE - 0.3, "full": BASE - 0.4, "without-attention": BASE - 0.2}
LOSSES = {name: x + 0.02 * np.random.default_rng(i).normal(size=N) for i, (name, x) in enumerate(LOSSES.items())}


def loss(synthetic: ModuleType, variant: str, shift: float = 0.0) -> EvaluationResult:
    result = synthetic.evaluation(variant, "trace_loss", [0] * N)
    samples = tuple(
        s.model_copy(update={"score": float(x) + shift, "finish": None, "extracted": None})
        for s, x in zip(result.samples, LOSSES[variant], strict=True)
    )
    changed: EvaluationResult = result.model_copy(update={"samples": samples, "unit": "nats"})
    return changed


def stored(store: Store, synthetic: ModuleType, seed: int, evaluations: list[EvaluationResult]) -> int:
    run = store.begin_run(study="s", preset=None, seed=seed, provenance=synthetic.PROVENANCE, model="m")
    for position, e in enumerate(evaluations):
        values = {**synthetic.step_values(f"evaluate/{e.variant}", "evaluate", None), "key": f"{e.item}{seed}"}
        step, _ = store.begin_step(run, position, **values)
        store.write(step, e)
        store.finish_step(step, status="done", wall_s=1.0, output={})
    store.finish_run(run, status="done")
    return int(run)


@pytest.fixture
def connection(store: Store) -> Any:
    with store.engine.connect() as opened:
        yield opened


def test_recovery_of_a_loss_is_in_nats_and_paired(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    run = stored(store, synthetic, 0, [loss(synthetic, v) for v in LOSSES])
    (row,) = recovery(connection, run)
    b, a, f = (LOSSES[v] for v in ("base", "adapter", "full"))
    assert row.unit == "nats"
    assert row.n_items == N
    assert row.base is not None
    assert row.base.value == pytest.approx(b.mean())
    assert row.base.low < b.mean() < row.base.high
    assert row.recovery is not None
    assert row.recovery.value == pytest.approx((b - a).mean() / (b - f).mean())
    assert row.recovery.bounded
    assert row.p_value == pytest.approx(oracle.ttest_rel(a, b).pvalue, abs=1e-12)
    cells = [" ".join(lines(column.cell(row))) for column in REPORT.columns]
    assert cells[2].startswith(f"{b.mean():.3f} nats [")
    group = {g.group: g for g in groups(connection, run)}["attention"]
    share, without = group.share_of_adapter_gap, LOSSES["without-attention"]
    assert group.unit == "nats"
    assert share is not None
    assert share.value == pytest.approx((b - without).mean() / (b - a).mean())
    assert group.p_value_vs_adapter == pytest.approx(oracle.ttest_rel(without, a).pvalue, abs=1e-12)
    assert generations(connection, run) == []
    claims = {name.what: number for name, number in _claims(connection, run).items()}
    assert claims["adapter below base on trace_loss"].value == pytest.approx((b - a).mean())


def test_two_runs_are_compared_by_document(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    first = stored(store, synthetic, 0, [loss(synthetic, "adapter")])
    second = stored(store, synthetic, 1, [loss(synthetic, "adapter", shift=0.1)])
    (row,) = compare_runs(connection, first, second)
    assert (row.unit, row.pairing) == ("nats per token (lower is better)", "items")
    assert row.difference is not None
    assert row.difference.value == pytest.approx(0.1)
    assert row.p_value == pytest.approx(0.0, abs=1e-9)


def test_a_second_grading_stands_beside_the_first(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    def graded(variant: str, strict: list[int], flexible: list[float]) -> EvaluationResult:
        result = synthetic.evaluation(variant, "gsm8k_cot", strict)
        pairs = zip(result.samples, flexible, strict=True)
        samples = tuple(s.model_copy(update={"score_flexible": x}) for s, x in pairs)
        changed: EvaluationResult = result.model_copy(update={"samples": samples})
        return changed

    both = [graded("base", [0, 0, 0, 0], [1, 0, 0, 0]), graded("adapter", [1, 0, 0, 0], [1, 1, 1, 0])]
    run = stored(store, synthetic, 0, both)
    strict, flexible = recovery(connection, run)
    assert (strict.benchmark, flexible.benchmark) == ("gsm8k_cot", "gsm8k_cot" + FLEXIBLE)
    means = [[m.value if m else None for m in (r.base, r.adapter)] for r in (strict, flexible)]
    assert means == [[0.0, 0.25], [0.25, 0.75]]
    assert [name for name in item_scores(connection, run) if of_answers(name)] == ["gsm8k_cot"]
