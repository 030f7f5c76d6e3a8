"""The paper card: claims as printed, the rule of the verdicts, and that another model is said to be another model."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from harness.records import Explanation, Feature
from harness.reports.common.verdicts import Word, judge_count, judge_equal, judge_number, judge_pattern, judge_top
from harness.reports.paper import _TESTS, PaperRow, paper_card, ratio_from_counts
from harness.stats import Estimate
from harness.store import schema
from harness.store.claims import paper
from harness.store.writer import Store

INF = math.inf


def test_printed_decimals_are_what_the_counts_give() -> None:
    counted = [c for c in paper().numbers if c.successes is not None]
    assert len(counted) == 15
    for claim in counted:
        assert claim.value == pytest.approx(claim.successes / claim.n, abs=5e-5), claim


def test_printed_recoveries_are_what_the_scores_give() -> None:
    value = {(c.quantity, c.subject): c.value for c in paper().numbers}
    for benchmark in ("AIME24", "MATH500", "GPQA-Diamond"):
        base, adapter, full = (value[f"score/{v}", benchmark] for v in ("base", "adapter", "full"))
        # From four printed decimals; GPQA's is not what its own decimals give (0.9000).
        tolerance = 2e-3 if benchmark == "GPQA-Diamond" else 1e-3
        assert value["recovery", benchmark] == pytest.approx((adapter - base) / (full - base), abs=tolerance)


def test_every_pattern_has_a_test_and_every_test_a_pattern() -> None:
    assert {p.test for p in paper().patterns} == set(_TESTS)
    assert all(p.reason for p in paper().untested)


def test_the_papers_own_recoveries_are_hardly_resolved() -> None:
    """Reference: Jeffreys posteriors of the printed counts, simulated elsewhere: 9-176, 49-135 and -49-358 %."""
    assert ratio_from_counts((7, 30), (15, 30), (18, 30)) == pytest.approx((0.09, 1.76), abs=0.05)
    assert ratio_from_counts((417, 500), (455, 500), (461, 500)) == pytest.approx((0.49, 1.35), abs=0.03)
    assert ratio_from_counts((97, 198), (115, 198), (117, 198)) == pytest.approx((-0.49, 3.58), abs=0.15)


@pytest.mark.parametrize(
    ("ours", "same", "word"),
    [
        (None, True, "not tested"),
        (Estimate(0.5, 0.45, 0.55), False, "not tested"),
        (Estimate(0.5, 0.45, 0.55), True, "reproduced"),
        (Estimate(0.42, 0.37, 0.47), True, "consistent"),
        (Estimate(0.2, 0.15, 0.25), True, "contradicted"),
        (Estimate(0.5, 0.3, 0.7), True, "not resolved at this n"),
        (Estimate(0.5, -INF, INF), True, "not resolved at this n"),
        (Estimate(0.1, 0.0, 0.35), True, "contradicted"),  # wide, but it excludes all that the paper's counts allow
    ],
)
def test_the_rule_for_numbers(ours: Estimate | None, same: bool, word: Word) -> None:
    assert judge_number(ours, Estimate(0.5, 0.4, 0.6), same_model=same).word == word


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, ("not tested", "not tested")),
        (Estimate(0.2, 0.1, 0.3), ("reproduced", "consistent")),
        (Estimate(-0.2, -0.3, -0.1), ("contradicted", "contradicted")),
        (Estimate(0.2, -0.1, 0.5), ("not resolved at this n", "not resolved at this n")),
        (Estimate(0.2, -INF, INF), ("not resolved at this n", "not resolved at this n")),
    ],
)
def test_the_rule_for_patterns(found: Estimate | None, words: tuple[Word, Word]) -> None:
    assert tuple(judge_pattern(found, same_model=same).word for same in (True, False)) == words


def test_the_rule_for_what_is_roughly_equal() -> None:
    found = {(-0.05, 0.05): "reproduced", (-0.2, 0.05): "not resolved at this n", (0.12, 0.3): "contradicted"}
    for (low, high), word in found.items():
        assert judge_equal(Estimate((low + high) / 2, low, high), same_model=True).word == word


def test_the_rules_for_counts_and_layers() -> None:
    assert judge_count(448, 448, same_model=True).word == "reproduced"
    assert judge_count(447, 448, same_model=True).word == "contradicted"
    assert judge_count(1850, 2000, same_model=True, tolerance=0.1).word == "reproduced"
    assert judge_count(448, 448, same_model=False).word == "not tested"
    top = {(44, 45, 46, 62): "reproduced", (44, 45, 1, 2): "consistent", (44, 1, 2, 3): "contradicted"}
    for layers, word in top.items():
        assert judge_top(layers, (44, 45, 46, 62), same_model=True).word == word


def _card(store: Store, run: int) -> list[PaperRow]:
    with store.engine.connect() as connection:
        return paper_card(connection, run)


def test_on_the_organism_no_number_is_tested_and_patterns_are_consistent_at_best(
    store: Store, synthetic: ModuleType
) -> None:
    rows = _card(store, synthetic.fill(store))
    assert not any(r.same_model for r in rows)
    assert {r.verdict for r in rows if r.unit in ("share", "count", "layers")} == {"not tested"}
    assert "reproduced" not in {r.verdict for r in rows}
    by_claim = {(r.claim, r.subject): r for r in rows}
    most = by_claim["the adapter recovers most of the full fine-tune's gain (73 to 90 %)", "organism_chain"]
    assert (most.verdict, most.ours_n) == ("consistent", 200)
    better = by_claim["without attention it scores higher than without MLP", "organism_chain"]
    assert better.verdict == "consistent"
    assert better.ours
    assert better.ours.low > 0
    base = by_claim["score/base", "MATH500"]
    assert base.paper_value
    assert (base.paper_value.value, base.paper_n, base.ours_n, base.ours_is) == (0.834, 500, 200, "organism_chain")
    assert base.reason == "another model: this number is a property of the paper's"


def test_on_the_papers_model_numbers_are_judged(store: Store, synthetic: ModuleType) -> None:
    run = store.begin_run(
        study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE, model="Qwen/Qwen2.5-32B-Instruct",
        paper_benchmarks={"openai_math": "MATH500"},
    )  # fmt: skip
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/all", "evaluate", None))
    for variant, correct in (("base", 417), ("adapter", 452), ("full", 461), ("without-mlp", 300)):
        store.write(step, synthetic.evaluation(variant, "openai_math", [1] * correct + [0] * (500 - correct)))
    found = {(r.claim, r.subject): r.verdict for r in _card(store, run)}
    assert found["score/base", "MATH500"] == "reproduced"
    assert found["score/without-mlp", "MATH500"] == "contradicted"
    assert found["score/base", "AIME24"] == "not tested"
    assert found["recovery", "MATH500"] in ("reproduced", "consistent")


def test_grades_are_compared_within_one_interpreter(store: Store, synthetic: ModuleType) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE, model="m")
    step, _ = store.begin_step(run, 0, **synthetic.step_values("interpret/x", "interpret"))
    for source, good in (("adapter-activations", 20), ("batch-topk", 180), ("mlp-neurons", 22)):
        for i in range(200):
            feature: Feature = synthetic.feature(source, f"{source}-{i}", i % 20, None, 1.0)
            store.write(step, feature.model_copy(update={"exemplars": ()}))
            store.write(step, Explanation(item=f"e-{source}-{i}", source=source, feature=feature.feature,
                                          interpreter="judge", explanation="x", grade=0 if i < good else 2, reason="r",
                                          n_exemplars=2))  # fmt: skip
    found = {r.claim: r for r in _card(store, run)}
    above = found["SAE latents are more often monosemantic than directions"]
    assert (above.verdict, above.subject, above.ours_n) == ("consistent", "graded by judge", 400)
    assert above.ours
    assert above.ours.value == pytest.approx(0.8)
    assert found["directions are about as often monosemantic as MLP neurons"].verdict == "consistent"


def test_claims_of_an_older_version_are_replaced(store: Store, synthetic: ModuleType) -> None:
    store.import_claims([{"place": "p", "quantity": "q", "subject": "s", "value": 1.0, "unit": "share"}])
    store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    with store.engine.connect() as connection:
        found = connection.execute(schema.PaperClaim.__table__.select()).all()
    assert len(found) == len(paper().numbers)
