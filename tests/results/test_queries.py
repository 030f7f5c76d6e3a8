from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection

from harness import stats
from harness.errors import ResultsError
from harness.results import queries
from harness.results.store import Store


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
        queries.resolve_run(connection, "latest")
    connection.rollback()
    first = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    second = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    assert queries.resolve_run(connection, "latest") == second
    assert queries.resolve_run(connection, str(first)) == first
    for wrong in ("7", "-1", "x"):
        with pytest.raises(ResultsError, match=r"the last ones are 1, 2"):
            queries.resolve_run(connection, wrong)


def test_rows_are_flat_and_unbounded_is_none(full: Connection) -> None:
    for query in (queries.overview, queries.steps, queries.recovery, queries.groups, queries.components,
                  queries.dictionaries, queries.latents, queries.grades, queries.features,
                  queries.categories):  # fmt: skip
        rows = query(full, 1)
        assert rows, query.__name__
        for row in rows:
            values = asdict(row).values()
            assert all(v is None or isinstance(v, str | int | float | bool) for v in values)
            assert not any(isinstance(v, float) and v != v for v in values)


def test_overview_counts(full: Connection) -> None:
    (row,) = queries.overview(full, 1)
    assert (row.n_steps, row.n_steps_done, row.n_steps_reused) == (15, 15, 0)
    assert (row.n_llm_calls, row.n_llm_calls_failed, row.llm_input_tokens) == (4, 2, 200)
    assert row.git_dirty is True
    assert row.status == "done"
    assert [s.step for s in queries.steps(full, 1)][:2] == ["train/rank1-lora", "evaluate/base"]


def test_recovery_is_paired_and_stands_beside_the_papers(full: Connection) -> None:
    rows = {r.benchmark: r for r in queries.recovery(full, 1)}
    chain = rows["organism_chain"]
    assert chain.recovery == pytest.approx((chain.adapter - chain.base) / (chain.full - chain.base))  # type: ignore[operator]
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
    (alone,) = queries.recovery(connection, run)
    assert (alone.base, alone.adapter, alone.recovery, alone.p_value) == (0.4, None, None, None)
    assert alone.reason == "this run has no evaluation of adapter, full"
    assert alone.paper_benchmark is None
    connection.rollback()
    store.write(step, synthetic.evaluation("adapter", "b", [1, 1, 0, 1]))
    store.write(step, synthetic.evaluation("full", "b", [1, 1, 1, 1], engine="vllm bf16"))
    (row,) = queries.recovery(connection, run)
    assert (row.n_items, row.base, row.adapter, row.full) == (4, 0.25, 0.75, 1.0)
    assert row.recovery == pytest.approx(2 / 3)
    assert row.p_value == stats.mcnemar_exact([1, 1, 0, 1], [0, 1, 0, 0]) == 0.5
    assert "1 of 5 items" in str(row.note)
    assert "different engines" in str(row.note)
    assert row.recovery_ci_low is None
    assert "unbounded" in str(row.reason)


def test_groups_divide_by_the_adapters_gap(full: Connection) -> None:
    rows = {(r.group, r.benchmark): r for r in queries.groups(full, 1)}
    adapter, base = rows["none", "organism_chain"], rows["all", "organism_chain"]
    without = rows["attention", "organism_chain"]
    assert (adapter.share_of_adapter_gap, base.share_of_adapter_gap) == (1.0, 0.0)
    assert without.share_of_adapter_gap == pytest.approx(
        (without.score - base.score) / (adapter.score - base.score)  # type: ignore[operator]
    )
    assert without.denominator == "adapter - base"
    assert (without.kl_nats, base.kl_nats, adapter.kl_nats) == (0.04, 0.51, None)
    assert (without.paper_score, without.paper_share_of_adapter_gap) == (0.9, 0.8684)
    assert rows["gate_proj", None].reason == "no benchmark was run with this group switched off"


def test_components_are_shares_of_the_whole_adapter(full: Connection) -> None:
    rows = queries.components(full, 1)
    assert [r.scope for r in rows][:2] == ["adapter", "adapter"]  # measured by two plugins
    assert rows[0].share_of_adapter_kl == 1.0
    layers = [r for r in rows if r.scope == "layer"]
    assert all(r.projection is None for r in layers)
    assert [r.component for r in layers] == ["L0", "L1", "L2", "L3"]
    assert layers[0].share_of_adapter_kl == pytest.approx(layers[0].kl_nats / 0.51)


def test_failed_explanations_stay_in_the_denominator(full: Connection) -> None:
    rows = [r for r in queries.grades(full, 1) if r.source == "adapter-activations"]
    labels = ["monosemantic", "broad but consistent", "polysemantic", "unparsed reply", "failed"]
    assert [r.label for r in rows] == labels
    assert [r.n for r in rows] == [14, 14, 14, 6, 7]
    assert {(r.n_features, r.n_dead) for r in rows} == {(55, 1)}
    assert sum(r.share for r in rows) == pytest.approx(1)
    assert rows[0].paper_share == 0.22
    assert rows[3].grade is None


def test_every_pair_of_sources_is_tested_on_every_grade(full: Connection) -> None:
    rows = queries.grade_tests(full, 1)
    assert len(rows) == 5
    assert {(r.source, r.other_source) for r in rows} == {("adapter-activations", "batch-topk")}
    assert not any(r.within_layers for r in rows)  # latents have no layer
    assert all(r.p_value <= r.p_holm <= 1 for r in rows)
    assert [r.p_value for r in rows] == sorted(r.p_value for r in rows)
    assert rows[0].difference == pytest.approx(rows[0].share - rows[0].other_share)


def test_features_have_explanation_category_and_context(full: Connection) -> None:
    rows = queries.features(full, 1)
    assert len(rows) == 96
    sums = [r.activation_sum for r in rows if r.source == "batch-topk"]
    assert sums == sorted(sums, reverse=True)  # type: ignore[type-var]
    assert all(r.interpreter == "lexical" and r.category for r in rows)
    assert rows[0].top_token == " Wait"
    assert "« Wait»" in str(rows[0].top_token_context)
    assert rows[0].n_exemplars == 2


def test_categories_weigh_by_activation(full: Connection) -> None:
    rows = [r for r in queries.categories(full, 1) if r.source == "batch-topk"]
    assert sum(r.n_features for r in rows) == 40
    assert sum(r.share for r in rows) == pytest.approx(1)
    assert sum(r.activation_density or 0 for r in rows) == pytest.approx(1)
    by = {r.category: r for r in queries.features(full, 1) if r.source == "batch-topk"}
    assert set(by) == {r.category for r in rows}


def test_empty_sections_say_why(store: Store, synthetic: ModuleType, connection: Connection) -> None:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    assert queries.dictionaries(connection, run) == []
    assert "the run is running" in queries.why_empty(connection, run, ("learn",), "dictionaries")
    connection.rollback()
    store.finish_run(run, status="done")
    assert "no step of that kind" in queries.why_empty(connection, run, ("learn",), "dictionaries")
    connection.rollback()
    step, _ = store.begin_step(run, 0, **synthetic.step_values("learn/x", "learn"))
    store.finish_step(step, status="failed", reason="out of memory")
    assert queries.why_empty(connection, run, ("learn",), "dictionaries") == (
        "no dictionaries in run 1: learn/x is failed (out of memory)"
    )
