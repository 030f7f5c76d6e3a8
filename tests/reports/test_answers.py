"""Answers one by one: avg@k, pass@k, how they ended, and the grader's verdicts, against sums done by hand."""

from __future__ import annotations

from itertools import combinations
from types import ModuleType
from typing import Any

import pytest

from harness import stats
from harness.records import AnswerVerdict
from harness.reports.generations import generations
from harness.reports.grader import grader
from harness.reports.recovery import recovery
from harness.store.writer import Store


@pytest.mark.parametrize(
    ("n", "c", "k"), [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]
)
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_answer(n: int, c: int, k: int) -> None:
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    assert stats.pass_at(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, 1, 0), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        stats.pass_at(n, c, k)


def verdict(doc_id: int, repeat: int, score: float, equal: bool | None, **more: Any) -> AnswerVerdict:
    values = {"equal_gold_first": equal, "equal_gold_last": None, "status": "answered", **more}
    return AnswerVerdict(
        item=f"sums/{doc_id}/{repeat}", variant="base", benchmark="sums", doc_id=doc_id, repeat=repeat, grader="a:m",
        compared="x", score_rules=score, equal=equal, reason="r", **values,
    )  # fmt: skip


SCORES = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
"""Three items of four answers."""


def stored(store: Store, synthetic: ModuleType, variants: dict[str, list[int]], *verdicts: AnswerVerdict) -> int:
    """A run with one benchmark, and what a grader said of the base's answers."""
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    steps = [(f"evaluate/{v}", "evaluate", [synthetic.evaluation(v, "sums", scores, repeats=4)])
             for v, scores in variants.items()]  # fmt: skip
    steps += [(f"verify/{v}", "verify", list(verdicts) if v == "base" else []) for v in variants if verdicts]
    for position, (name, stage, records) in enumerate(steps):
        step, _ = store.begin_step(run, position, **synthetic.step_values(name, stage, None))
        store.write_many(step, records)
        store.finish_step(step, status="done", output={})
    return int(run)


def test_repeated_answers(store: Store, synthetic: ModuleType) -> None:
    run = stored(store, synthetic, {"base": SCORES})
    with store.engine.connect() as connection:
        (row,) = generations(connection, run)
    assert (row.n_items, row.k, row.n_answers) == (3, 4, 12)
    assert row.avg_at_k.value == pytest.approx(5 / 12)
    assert row.pass_at_k.value == pytest.approx(2 / 3)
    assert (row.pass_at_k.low, row.pass_at_k.high) == pytest.approx((stats.share(2, 3).low, stats.share(2, 3).high))
    assert row.pass_at == pytest.approx([5 / 12, (1 / 2 + 1) / 3, (3 / 4 + 1) / 3, 2 / 3])
    # answer 8 of 12 is cut; answers 35, 71, ... would loop
    assert (row.n_unfinished, row.n_looping, row.n_unanswered) == (1, 0, 1)
    assert row.share_unfinished
    assert row.share_unfinished.value == pytest.approx(1 / 12)
    assert row.share_unfinished.high >= stats.share(1, 12).high
    assert (row.median_tokens, row.max_tokens) == (43, 120)


def test_verdicts_count_where_there_are_any(store: Store, synthetic: ModuleType) -> None:
    said = (
        verdict(0, 0, 1, False),
        verdict(0, 1, 0, True),
        verdict(0, 2, 0, True),
        verdict(0, 3, 0, False),
        verdict(1, 0, 0, True),
        verdict(1, 1, 0, None, status="unparsed"),
        verdict(1, 2, 0, None, status="failed"),
        verdict(1, 3, 0, None, status="orders-disagree", equal_gold_first=True, equal_gold_last=False),
    )
    run = stored(store, synthetic, {"base": SCORES, "adapter": SCORES, "full": [1] * 12}, *said)
    with store.engine.connect() as connection:
        (row,) = grader(connection, run)
        (recovery_row,) = recovery(connection, run)
    assert (row.n_answers, row.n_asked, row.n_answered) == (12, 8, 5)
    assert (row.n_unparsed, row.n_failed, row.n_orders_disagree, row.n_both_orders) == (1, 1, 1, 1)
    assert row.agreement
    assert (row.n_accepted, row.n_rejected, row.agreement.value) == (3, 1, pytest.approx(1 / 5))
    assert row.score_rules.value == pytest.approx(5 / 12)
    assert row.score_graded.value == pytest.approx((2 / 4 + 1 / 4 + 1) / 3)
    # the adapter gave the answers of the base, and no verdict was asked for: the rules' score stands
    assert (recovery_row.graded_base, recovery_row.graded_adapter, recovery_row.graded_full) == pytest.approx(
        (7 / 12, 5 / 12, 1)
    )
    assert (recovery_row.recovery, recovery_row.graded_recovery) == (None, None)  # three items bound nothing
    assert "not distinguishable from 0 (n=3)" in str(recovery_row.reason)


def test_recovery_stands_beside_the_graded_one(store: Store, synthetic: ModuleType) -> None:
    variants = {"base": [0] * 80, "adapter": [1, 0, 0, 0] * 20, "full": [1] * 80}
    run = stored(store, synthetic, variants, verdict(0, 0, 0, True))
    with store.engine.connect() as connection:
        (row,) = recovery(connection, run)
    assert row.recovery
    assert row.graded_recovery
    assert row.recovery.value == pytest.approx(1 / 4)
    assert row.graded_recovery.value == pytest.approx((20 - 1) / (80 - 1))


def test_there_is_no_graded_recovery_while_a_variant_is_not_graded(store: Store, synthetic: ModuleType) -> None:
    run = stored(store, synthetic, {"base": SCORES, "adapter": SCORES, "full": [1] * 12}, verdict(0, 0, 1, False))
    step = store.find_step(synthetic.step_values("verify/full")["key"])
    assert step is not None
    store.finish_step(step.id, status="incomplete", reason="a call failed")
    with store.engine.connect() as connection:
        (recovery_row,) = recovery(connection, run)
    assert recovery_row.graded_recovery is None
    assert recovery_row.graded_base is None


def test_answers_of_which_nobody_stored_the_end_have_no_shares(store: Store, synthetic: ModuleType) -> None:
    result = synthetic.evaluation("base", "sums", [1, 0])
    bare = [s.model_copy(update={"finish": None, "n_tokens": None}) for s in result.samples]
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/base", "evaluate", None))
    store.write(step, result.model_copy(update={"samples": tuple(bare)}))
    store.finish_step(step, status="done", output={})
    with store.engine.connect() as connection:
        (row,) = generations(connection, run)
    assert (row.avg_at_k.value, row.k) == (0.5, 1)
    assert (row.n_unfinished, row.share_looping, row.median_tokens) == (None, None, None)
    assert "nobody stored" in (row.reason or "")
