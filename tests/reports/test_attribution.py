"""The attribution report: sums, remainders, and agreement with exact falls, against scipy and hand-made answers."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from scipy.stats import spearmanr
from sqlalchemy import Connection

from harness.records.attribute import Attribution
from harness.reports.attribution import attribution
from harness.store.writer import Store

NAMES = tuple(f"L0.c{i}" for i in range(14))


def answer(document: int, seed: int, *, noise: float) -> Attribution:
    rng = np.random.default_rng(seed)
    falls = rng.normal(size=len(NAMES))
    values = falls + noise * rng.normal(size=len(NAMES))
    return Attribution(
        item=f"d{document}:{seed}", document=f"d{document}", outcome="log-probability", span="written", position=seed,
        token="x", n_tokens=1, with_adapter=float(values.sum()) + 1.0, without_adapter=0.0, n_nodes=4,
        first_order=dict(zip(NAMES, (-falls).tolist(), strict=True)),
        integrated=dict(zip(NAMES, values.tolist(), strict=True)), own=dict(zip(NAMES, falls.tolist(), strict=True)),
        left_out=dict(zip(NAMES, falls.tolist(), strict=True)), drawn=NAMES[4:], by_token=(0.0,) * seed,
    )  # fmt: skip


ANSWERS = [answer(i // 2, i + 1, noise=0.5) for i in range(24)]


def stored(store: Store, synthetic: ModuleType, records: list[Attribution]) -> Connection:
    run = store.begin_run(study="s", preset="tiny", seed=0, provenance=synthetic.PROVENANCE, device="cpu", model="m")
    step, _ = store.begin_step(run, 0, **synthetic.step_values("ablate/attribute", "ablate", "attribute"))
    store.write_many(step, records)
    store.finish_step(step, status="done", wall_s=1.0, output={})
    store.finish_run(run, status="done")
    return store.engine.connect()


def test_each_way_is_held_against_the_exact_falls(store: Store, synthetic: ModuleType) -> None:
    with stored(store, synthetic, ANSWERS) as connection:
        integrated, gradient, own, null = attribution(connection, 1)
    assert [r.method for r in (integrated, gradient, own, null)] == ["integrated", "gradient", "own", "null"]
    rhos = [spearmanr(list(r.integrated.values()), list(r.left_out.values()))[0] for r in ANSWERS]
    assert integrated.spearman is not None
    assert integrated.spearman.value == pytest.approx(np.mean(rhos))
    assert integrated.spearman.n == integrated.n_documents == 12
    drawn = [spearmanr(list(r.integrated.values())[4:], list(r.left_out.values())[4:])[0] for r in ANSWERS]
    assert integrated.spearman_drawn is not None
    assert integrated.spearman_drawn.value == pytest.approx(np.mean(drawn))
    assert integrated.remainder_share == pytest.approx(np.median([1 / abs(r.difference) for r in ANSWERS]))
    assert own.spearman
    assert own.top_share
    assert gradient.spearman
    assert (own.spearman.value, own.top_share.value, gradient.spearman.value) == pytest.approx((1, 1, -1))
    assert null.spearman
    assert null.top_share
    assert null.spearman.low < 0 < null.spearman.high
    # Two random tens of fourteen share 10 * 10 / 14: the chance that any agreement has to exceed.
    assert null.top_share.value == pytest.approx(10 / 14, abs=0.08)


def test_where_nothing_was_switched_off_there_is_a_reason_for_no_agreement(store: Store, synthetic: ModuleType) -> None:
    alone = [a.model_copy(update={"left_out": {}, "own": {}, "drawn": ()}) for a in ANSWERS]
    with stored(store, synthetic, alone) as connection:
        rows = attribution(connection, 1)
    assert [r.method for r in rows] == ["integrated", "gradient", "null"]
    for row in rows:
        assert (row.spearman, row.spearman_drawn, row.spearman_mean, row.top_share) == (None,) * 4
        assert row.reason == "too few components were switched off exactly to compare ranks"
