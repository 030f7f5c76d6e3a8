from __future__ import annotations

from dataclasses import asdict
from types import ModuleType

from harness.reports.common.rows import one_report
from harness.reports.densities import densities
from harness.reports.enrichment import EnrichmentRow, enrichment
from harness.reports.features import FeatureRow, features, top_features
from harness.reports.steps import steps
from harness.store.writer import Store


def test_a_preview_is_the_first_rows_of_the_whole(store: Store, synthetic: ModuleType) -> None:
    run = synthetic.fill(store)
    step, _ = store.begin_step(run, 99, **synthetic.step_values("interpret/two", "interpret", "two"))
    known = synthetic.feature("batch-topk", "latent3", None, None, 1.0)
    unknown = synthetic.feature("batch-topk", "not-stored", None, None, 1.0)
    store.write_many(step, synthetic.explanations([known, unknown]))
    with store.engine.connect() as connection:
        groups: dict[tuple[str, str | None], list[FeatureRow]] = {}
        for row in features(connection, run):
            groups.setdefault((row.source, row.interpreter), []).append(row)
        expected = [{**asdict(row), "n_alike": len(own)} for own in groups.values() for row in own[:5]]
        assert [asdict(row) for row in top_features(connection, run, 5)] == expected


def test_a_preview_of_enrichment_is_the_first_row_of_each_kind(store: Store, synthetic: ModuleType) -> None:
    run = synthetic.fill(store)
    with store.engine.connect() as connection:
        first: dict[tuple[str, str, str], EnrichmentRow] = {}
        for row in enrichment(connection, run):
            first.setdefault((row.source, row.family, row.event), row)
        assert len(first) > 1
        assert enrichment(connection, run, most_per_kind=1) == list(first.values())


def test_a_preview_of_densities_lacks_places_only(store: Store, synthetic: ModuleType) -> None:
    run = synthetic.fill(store)
    with store.engine.connect() as connection:
        whole = [r for r in densities(connection, run) if r.by in ("source", "subcategory")]
        assert densities(connection, run, ()) == whole


def test_one_report_asks_a_shared_query_once_and_no_longer(store: Store, synthetic: ModuleType) -> None:
    run = synthetic.fill(store)
    with store.engine.connect() as connection:
        with one_report():
            assert steps(connection, run) is steps(connection, run)
        assert steps(connection, run) is not steps(connection, run)
