from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection

from harness import stats
from harness.errors import ResultsError
from harness.records import CategoryAssignment, CategoryTrial, Enrichment, EventAssociation, Explanation, JudgeTrial
from harness.records.flat import flat_values
from harness.render.figures.agreement import KNOWN, confusion
from harness.render.loading import notes, why_empty
from harness.reports.categories import categories
from harness.reports.common.planted import Errors
from harness.reports.common.run import resolve_run
from harness.reports.components import components
from harness.reports.densities import densities
from harness.reports.dictionaries import dictionaries
from harness.reports.enrichment import enrichment
from harness.reports.features import features
from harness.reports.grade_tests import grade_tests
from harness.reports.grades import grades
from harness.reports.groups import groups
from harness.reports.judge import judge
from harness.reports.latents import latents
from harness.reports.overview import overview
from harness.reports.recovery import recovery
from harness.reports.scores import REPORT as SCORES
from harness.reports.scores import scores
from harness.reports.steps import steps
from harness.stats import Estimate, Undefined
from harness.store.writer import Store


def value(number: Estimate | None) -> float | None:
    """The number without its interval."""
    return number.value if number else None


@pytest.fixture
def connection(store: Store) -> Iterator[Connection]:
    with store.engine.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def filled_file(empty_file: Path, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "results.db"
    path.write_bytes(empty_file.read_bytes())
    with Store.open(path) as store:
        synthetic.fill(store)
    return path


@pytest.fixture
def full(filled_file: Path) -> Iterator[Connection]:
    """A database with one finished run, number 1."""
    with Store.open(filled_file) as store, store.engine.connect() as opened:
        yield opened


def test_runs_are_found_by_id_and_latest(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    with pytest.raises(ResultsError, match="harness run"):
        resolve_run(connection, "latest")
    connection.rollback()
    first = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    second = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    assert resolve_run(connection, "latest") == second
    assert resolve_run(connection, str(first)) == first
    for wrong in ("7", "-1", "x"):
        with pytest.raises(ResultsError, match=r"the last ones are 1, 2"):
            resolve_run(connection, wrong)


def test_rows_are_flat_in_json_and_unbounded_is_none(full: Connection) -> None:
    for query in (overview, steps, recovery, groups, components,
                  dictionaries, latents, grades, features,
                  categories):  # fmt: skip
        rows = query(full, 1)
        assert rows, query.__name__
        for row in rows:
            values = flat_values(row).values()
            assert all(v is None or isinstance(v, str | int | float | bool) for v in values)
            assert not any(isinstance(v, float) and v != v for v in values)


def test_overview_counts(full: Connection) -> None:
    (row,) = overview(full, 1)
    assert (row.n_steps, row.n_steps_done, row.n_steps_reused) == (23, 23, 0)
    assert (row.n_llm_calls, row.n_llm_calls_failed, row.llm_input_tokens) == (4, 2, 200)
    assert row.git_dirty is True
    assert row.status == "done"
    assert [s.step for s in steps(full, 1)][:2] == ["train/rank1-lora", "evaluate/base"]


def test_recovery_is_paired_and_stands_beside_the_papers(full: Connection) -> None:
    rows = {r.benchmark: r for r in recovery(full, 1)}
    chain = rows["organism_chain"]
    assert chain.base
    assert chain.adapter
    assert chain.full
    assert value(chain.recovery) == pytest.approx(
        (chain.adapter.value - chain.base.value) / (chain.full.value - chain.base.value)
    )
    assert chain.denominator == "full - base"
    assert (chain.paper_benchmark, chain.paper_base, chain.paper_recovery) == ("MATH500", 0.834, 0.8636)
    assert chain.p_value is not None
    assert chain.p_value < 0.001
    assert chain.n_items == 200
    flat = rows["organism_choice"]
    assert flat.recovery is None
    assert "no gap" in str(flat.reason)


def test_recovery_pairs_by_item_and_says_what_differs(
    store: Store, synthetic: ModuleType, connection: Connection
) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/all", "evaluate"))
    store.write(step, synthetic.evaluation("base", "b", [0, 1, 0, 0, 1]))
    (alone,) = recovery(connection, run)
    assert (value(alone.base), alone.adapter, alone.recovery, alone.p_value) == (0.4, None, None, None)
    assert alone.reason == "this run has no evaluation of adapter, full"
    assert alone.paper_benchmark is None
    connection.rollback()
    store.write(step, synthetic.evaluation("adapter", "b", [1, 1, 0, 1]))
    store.write(step, synthetic.evaluation("full", "b", [1, 1, 1, 1], engine="vllm bf16"))
    (row,) = recovery(connection, run)
    assert (row.n_items, value(row.base), value(row.adapter), value(row.full)) == (4, 0.25, 0.75, 1.0)
    assert row.p_value == stats.mcnemar_exact([1, 1, 0, 1], [0, 1, 0, 0]) == 0.5
    assert "1 of 5 items" in str(row.note)
    assert "different engines: base: hf fp32, adapter: hf fp32, full: vllm bf16" in str(row.note)
    assert (row.engines_differ, alone.engines_differ) == (True, False)
    assert row.recovery is None  # of four items the gap itself may be 0
    assert row.reason == "full - base: unbounded: the gap is not distinguishable from 0 (n=4)"
    assert row.metric == "exact_match"


def test_groups_of_another_engine_than_the_adapters_are_marked(
    store: Store, synthetic: ModuleType, connection: Connection
) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/all", "evaluate"))
    for variant, engine in (
        ("base", "vllm"),
        ("adapter", "vllm"),
        ("without-mlp", "hf"),
        ("without-attention", "vllm"),
    ):
        store.write(step, synthetic.evaluation(variant, "b", [0, 1, variant != "base", 1], engine=engine))
    marked = {r.group: r.engines_differ for r in groups(connection, run)}
    assert marked == {"none": False, "all": False, "mlp": True, "attention": False}
    (recovery_row,) = recovery(connection, run)
    assert not recovery_row.engines_differ


def test_groups_divide_by_the_adapters_gap(full: Connection) -> None:
    rows = {(r.group, r.benchmark): r for r in groups(full, 1)}
    adapter, base = rows["none", "organism_chain"], rows["all", "organism_chain"]
    without = rows["attention", "organism_chain"]
    assert (value(adapter.share_of_adapter_gap), value(base.share_of_adapter_gap)) == (1.0, 0.0)
    assert without.score
    assert base.score
    assert adapter.score
    assert value(without.share_of_adapter_gap) == pytest.approx(
        (without.score.value - base.score.value) / (adapter.score.value - base.score.value)
    )
    assert without.denominator == "adapter - base"
    assert (value(without.kl_nats), value(base.kl_nats), adapter.kl_nats) == (0.04, 0.51, None)
    assert (without.paper_score, without.paper_share_of_adapter_gap) == (0.9, 0.8684)
    assert rows["gate_proj", None].reason == "no benchmark was run with this group switched off"


def test_components_are_shares_of_the_whole_adapter(full: Connection) -> None:
    rows = components(full, 1)
    assert [r.scope for r in rows][:2] == ["adapter", "adapter"]  # measured by two plugins
    assert rows[0].share_of_adapter_kl == 1.0
    layers = [r for r in rows if r.scope == "layer"]
    assert all(r.projection is None for r in layers)
    assert [r.component for r in layers] == ["L0", "L1", "L2", "L3"]
    assert layers[0].share_of_adapter_kl == pytest.approx(layers[0].kl_nats.value / 0.51)


def test_failed_explanations_stay_in_the_denominator(full: Connection) -> None:
    rows = [r for r in grades(full, 1) if r.source == "adapter-activations"]
    labels = ["monosemantic", "broad but consistent", "polysemantic", "unparsed reply", "failed"]
    assert [r.label for r in rows] == labels
    assert [r.n for r in rows] == [14, 14, 14, 6, 7]
    assert {(r.n_features, r.n_dead) for r in rows} == {(55, 1)}
    assert sum(r.share.value for r in rows) == pytest.approx(1)
    assert rows[0].paper_share == 0.22
    assert rows[3].grade is None


def test_every_pair_of_sources_is_tested_on_every_grade(full: Connection) -> None:
    both = grade_tests(full, 1)
    assert {r.graded_on for r in both} == {"all", "top"}
    rows = [r for r in both if r.graded_on == "all"]
    assert len(rows) == 5
    assert {(r.source, r.other_source) for r in rows} == {("adapter-activations", "batch-topk")}
    assert not any(r.within_layers for r in rows)  # latents have no layer
    assert all(r.p_value <= r.p_holm <= 1 for r in rows)
    assert [r.p_value for r in rows] == sorted(r.p_value for r in rows)
    assert rows[0].difference == pytest.approx(rows[0].share - rows[0].other_share)


def test_features_have_explanation_category_and_context(full: Connection) -> None:
    rows = features(full, 1)
    assert len(rows) == 96
    sums = [r.activation_sum for r in rows if r.source == "batch-topk"]
    assert sums == sorted(sums, reverse=True)  # type: ignore[type-var]
    assert all(r.interpreter == "lexical" and r.category for r in rows)
    assert rows[0].top_token == " Wait"
    assert "« Wait»" in str(rows[0].top_token_context)
    assert rows[0].n_exemplars == 2


def test_categories_weigh_by_activation(full: Connection) -> None:
    rows = [r for r in categories(full, 1) if r.source == "batch-topk"]
    assert sum(r.n_features for r in rows) == 40
    assert sum(r.share.value for r in rows) == pytest.approx(1)
    assert sum(r.activation_density or 0 for r in rows) == pytest.approx(1)
    by = {r.category: r for r in features(full, 1) if r.source == "batch-topk"}
    assert set(by) == {r.category for r in rows}


def test_empty_sections_say_why(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    assert dictionaries(connection, run) == []
    assert "the run is running" in why_empty(connection, run, ("learn",), "dictionaries")
    connection.rollback()
    store.finish_run(run, status="done")
    assert "no step of that kind" in why_empty(connection, run, ("learn",), "dictionaries")
    connection.rollback()
    step, _ = store.begin_step(run, 0, **synthetic.step_values("learn/x", "learn"))
    store.finish_step(step, status="failed", reason="out of memory")
    assert why_empty(connection, run, ("learn",), "dictionaries") == (
        "no dictionaries in run 1: learn/x is failed (out of memory)"
    )


def test_the_judge_is_measured_by_what_was_planted_and_graded_again(full: Connection) -> None:
    rows = judge(full, 1)
    planted = {(r.subject, r.outcome): r for r in rows if r.measure == "planted" and r.n_features}
    assert planted["token, 3.7 to 3.7 %", "0 monosemantic"].n == 4  # one of five was graded 1
    assert planted["token, 3.7 to 3.7 %", "1 broad but consistent"].right is False
    assert value(planted["mixture, 3.7 to 3.7 %", "2 polysemantic"].value) == pytest.approx(0.8)
    assert all(r.value and r.value.low <= r.value.value <= r.value.high for r in planted.values())
    missing = {r.subject: r.reason for r in rows if r.measure == "planted" and not r.n_features}
    assert set(missing) == {"context", "position", "random"}
    assert all("none planted" in str(reason) for reason in missing.values())
    cells = {(r.subject[8:10].strip(), r.outcome[0]): (r.n, r.right) for r in rows if r.measure == "confusion"}
    assert cells == {("0", "0"): (4, True), ("0", "1"): (1, False), ("1", "1"): (5, True),
                     ("2", "2"): (4, True), ("2", "1"): (1, False), ("2", "0"): (5, False)}  # fmt: skip
    errors = {r.subject: (r.n, r.n_features) for r in rows if r.measure == "error"}
    assert errors == {"sensitivity": (4, 5), "specificity": (10, 15)}
    (band,) = (r for r in rows if r.measure == "density")
    assert (band.subject, band.n, band.n_features) == ("1 to 10 % of tokens", 13, 20)
    known = {(r.first_grade, r.second_grade): r.n for r in confusion(full, 1) if r.first == KNOWN}
    assert known[0, 0] == 4
    assert known[0, 1] == 1
    assert sum(known.values()) == sum({r.subject: r.n_features for r in planted.values()}.values())
    again = {r.subject: r for r in rows if r.measure == "agreement"}
    assert set(again) == {"repeat", "shuffle"}
    assert again["repeat"].n_features == 12
    assert -1 <= (value(again["repeat"].value) or 0) < 1
    (index,) = (r for r in rows if r.measure == "categories again")
    assert (index.n_features, index.unit) == (96, "adjusted Rand index")
    named = {r.outcome: r for r in rows if r.measure == "right class" and r.subject == "adapter-activations"}
    assert named["names the class"].n == 42  # every explanation says `operators`, as every feature is
    assert named["no explanation"].n == 13
    assert sum(r.n or 0 for r in named.values()) == 55


def test_a_deterministic_judge_agrees_with_itself_by_construction_and_is_told_where_it_does_not(
    store: Store, synthetic: ModuleType, connection: Connection
) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    found = [synthetic.feature("adapter-activations", f"L0.q_proj{i}", 0, "q_proj", 1.0) for i in range(8)]
    trials = [
        JudgeTrial(item=f"{condition}/0/{f.source}/{f.feature}", source=f.source, feature=f.feature,
                   interpreter="lexical", condition=condition, trial=0, explanation="x",
                   grade=2 if condition == "shuffle" and i == 0 else i % 2, status="graded", reason="r",
                   deterministic=True)
        for condition in ("repeat", "shuffle") for i, f in enumerate(found)
    ]  # fmt: skip
    graded = [
        Explanation(item=f.feature, source=f.source, feature=f.feature, interpreter="lexical", explanation="x",
                    grade=i % 2, grade_top=i % 2, reason="r", n_exemplars=2)
        for i, f in enumerate(found)
    ]  # fmt: skip
    again = [CategoryTrial(item=f"0/{f.source}/{f.feature}", source=f.source, feature=f.feature, interpreter="lexical",
                           trial=0, category="c", deterministic=True) for f in found]  # fmt: skip
    first = [CategoryAssignment(item=f"{f.source}/{f.feature}", source=f.source, feature=f.feature, category="c")
             for f in found]  # fmt: skip
    stored = (("probe/s", found), ("interpret/s", graded), ("categorise", first), ("regrade", [*trials, *again]))
    for place, (name, records) in enumerate(stored):
        step, _ = store.begin_step(run, place, **synthetic.step_values(name, "interpret", "lexical"))
        store.write_many(step, records)
        store.finish_step(step, status="done", wall_s=1.0, output={})
    rows = {(r.measure, r.subject): r for r in judge(connection, run)}
    certain = rows["agreement", "repeat"]
    assert (certain.n, certain.n_features, certain.value) == (8, 8, None)
    assert certain.reason == "deterministic: agrees with itself by construction"
    assert rows["categories again", "all sources"].reason == certain.reason
    assert rows["categories again", "all sources"].value is None
    broken = rows["agreement", "shuffle"]
    assert broken.value is not None
    assert broken.reason == "declared deterministic, but 1 of 8 differ"


def test_shares_are_corrected_by_the_judges_errors_or_say_why_not(full: Connection) -> None:
    (row,) = (r for r in grades(full, 1) if r.source == "batch-topk" and r.grade == 0)
    assert row.corrected is None  # 4 of 5 and 10 of 15 are too few
    assert "found 4 of 5" in str(row.reason)
    errors = Errors(18, 20, 45, 60)
    assert value(errors.corrected(row.share, row.n_features)) == pytest.approx((row.share.value - 0.25) / 0.65)
    assert isinstance(Errors(0, 0, 0, 0).corrected(row.share, row.n_features), Undefined)
    assert all(r.corrected is None and r.reason is None for r in grades(full, 1) if r.grade != 0)


def test_scores_keep_what_could_not_be_scored_beside_the_mean(full: Connection) -> None:
    rows = {r.kind: r for r in scores(full, 1)}
    detection = rows["detection"]
    assert (detection.n_features, detection.n_scored, detection.n_unanswered) == (10, 9, 5)
    accuracy = detection.balanced_accuracy
    assert accuracy
    assert accuracy.value == pytest.approx(0.5 + 5 / 40)
    assert accuracy.low < 0.625 < accuracy.high
    assert "1 of 10 features not scored: 1 held-out context" in str(detection.reason)
    assert (rows["intruder"].chance, rows["intruder"].auc) == (0.2, None)
    simulation = rows["simulation"]
    assert (simulation.n_scored, simulation.chance, simulation.balanced_accuracy) == (9, 0.0, None)
    assert value(simulation.correlation) == pytest.approx(0.5)
    assert {r.n_quietest for r in rows.values()} == {1}
    above = rows["output"].above_control  # paired by feature: i / 40 less i / 80, for i from 1 to 9
    assert (rows["output"].control, value(above)) == ("a random direction", pytest.approx(5 / 80))
    told = notes(SCORES, list(rows.values()))
    assert told == ["adapter-activations: 1 of 10 features not scored: 1 held-out context, and 5 are needed"]


def test_what_is_true_of_several_kinds_of_test_is_told_once(full: Connection) -> None:
    one, other = scores(full, 1)[:2]
    rare, no_test = "10 of 60 features not scored: rare", "2 of 60 features not scored: no such test"
    rows = [replace(one, lost=(rare,)), replace(other, lost=(rare, no_test))]
    assert notes(SCORES, rows) == [f"adapter-activations: {rare}", f"adapter-activations: {no_test}"]


def test_densities_are_shares_of_their_whole(full: Connection) -> None:
    rows = densities(full, 1)
    for source in ("adapter-activations", "batch-topk"):
        of_source = [r for r in rows if r.source == source]
        assert sum(value(r.density) or 0 for r in of_source if r.by == "source") == pytest.approx(1)
        assert all(r.density and r.density.low <= r.density.value <= r.density.high for r in of_source)
    by_layer = [r for r in rows if r.by == "layer" and r.layer == 2]
    assert sum(value(r.density) or 0 for r in by_layer) == pytest.approx(1)
    assert {r.source for r in by_layer} == {"adapter-activations"}
    assert {r.projection for r in rows if r.by == "projection"} == set(synthetic_projections())
    (divided,) = (r for r in rows if r.by == "subcategory")
    assert (divided.source, divided.category, divided.subcategory, value(divided.density)) == (
        "batch-topk", "operators", "plus", 1.0,
    )  # fmt: skip
    shares = {r.category: r.activation_density for r in categories(full, 1) if r.source == "batch-topk"}
    assert {
        r.category: value(r.density) for r in rows if r.source == "batch-topk" and r.by == "source"
    } == pytest.approx(shares)


def test_enrichment_puts_the_surest_first_and_counts_what_is_enriched(full: Connection) -> None:
    rows = enrichment(full, 1)
    assert len(rows) == 2 * 56
    assert {(r.n_enriched, r.n_features) for r in rows} == {(0, 56)}  # their intervals begin at 2, and 3 is the floor
    assert {r.n_random for r in rows} == {None}
    assert rows[0].odds_ratio
    assert rows[0].odds_ratio.low == 2.0


@pytest.mark.parametrize(("low", "q", "enriched"), [(3.1, 0.01, 1), (3.0, 0.01, 0), (3.1, 0.05, 0), (2.9, 0.001, 0)])
def test_enriched_needs_an_effect_and_stands_beside_random_directions(
    store: Store, synthetic: ModuleType, connection: Connection, low: float, q: float, enriched: int
) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("enrich/features", "enrich"))
    for source, n in (("random-directions", 3), ("adapter-activations", 2)):
        for i in range(n):
            store.write(step, association(source, f"f{i}", Estimate(9.0, low if i == 0 else 1.5, 30.0), q))
    rows = enrichment(connection, run)
    assert {(r.source, r.n_enriched, r.n_features) for r in rows} == {
        ("random-directions", enriched, 3), ("adapter-activations", enriched, 2)
    }  # fmt: skip
    assert {(r.n_enriched_random, r.n_random) for r in rows} == {(enriched, 3)}


def association(source: str, feature: str, odds: Estimate, q: float) -> Enrichment:
    event = EventAssociation(
        family="class", event="number", n_event=50, n_both=20, activation_share=0.4, odds_ratio=odds, p_value=q / 2,
        q_value=q, reason=None,
    )  # fmt: skip
    return Enrichment(
        item=f"{source}/{feature}", source=source, feature=feature, active_above=0.1, n_active=30, n_tokens=1000,
        n_documents=40, top_class=None, top_class_share=None, reason="made up", events=(event,),
    )  # fmt: skip


def holm_by_hand(p_values: list[float]) -> list[float]:
    """The level at which a step-down test over all of them rejects each."""
    m = len(p_values)
    steps = [(m - sum(q < p for q in p_values)) * p for p in p_values]
    return [min(1.0, max(s for s, q in zip(steps, p_values, strict=True) if q <= p)) for p in p_values]


def test_p_values_of_a_table_are_one_family(full: Connection) -> None:
    tested = [r for r in groups(full, 1) if r.p_value_vs_adapter is not None]
    assert len(tested) == 9  # three benchmarks, two groups and the base model
    expected = holm_by_hand([float(r.p_value_vs_adapter or 0) for r in tested])
    assert [r.p_holm for r in tested] == pytest.approx(expected)
    assert all(r.p_holm is None for r in groups(full, 1) if r.p_value_vs_adapter is None)
    by_benchmark = recovery(full, 1)
    expected = holm_by_hand([float(r.p_value or 0) for r in by_benchmark])
    assert [r.p_holm for r in by_benchmark] == pytest.approx(expected)


def test_without_a_gap_no_group_has_a_share(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/all", "evaluate"))
    for variant in ("base", "adapter", "without-mlp"):
        store.write(step, synthetic.evaluation(variant, "b", [0, 1, 1, 1]))
    for row in groups(connection, run):
        assert row.share_of_adapter_gap is None, row.group
        assert row.reason == "adapter - base: there is no gap: it is 0 on average (n=4)"


def test_fractions_are_said_to_be_no_wilson_and_no_mcnemar(
    store: Store, synthetic: ModuleType, connection: Connection
) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("evaluate/all", "evaluate"))
    for variant in ("base", "adapter"):
        store.write(step, synthetic.evaluation(variant, "right-or-wrong", [0, 1, 1, 1]))
        store.write(step, synthetic.evaluation(variant, "by-f1", [0.5, 1, 1, 0.2]))
    notes = {r.benchmark: r.note for r in recovery(connection, run)}
    assert notes["right-or-wrong"] is None
    assert "bootstrap-t over items, p is the exact sign test" in str(notes["by-f1"])


def test_planted_features_are_no_source_of_the_study(full: Connection) -> None:
    for query in (features, grades, categories, densities):
        assert "planted" not in {r.source for r in query(full, 1)}


def synthetic_projections() -> tuple[str, ...]:
    return ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
