"""The schema's words: every view and table is described, and the views read what was stored."""

from __future__ import annotations

from types import ModuleType

from sqlalchemy import text

from harness.store.describe import QUERIES, datasette_metadata, relations, schema_markdown
from harness.store.views import views
from harness.store.writer import Store

VIEWS = [view.name for view in views()]


def test_every_view_and_table_is_described(store: Store) -> None:
    with store.engine.connect() as connection:
        found = connection.execute(text("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')")).all()
    there = {name for _, name in found if name != "alembic_version" and not name.startswith("sqlite_")}
    assert {r.name for r in relations()} == there
    assert set(VIEWS) == {name for kind, name in found if kind == "view"}
    assert all(r.about and r.columns for r in relations())
    page = schema_markdown()
    assert "| `kl_nats` | float | nats per token |" in page.replace("double", "float")


def test_views_read_what_was_stored(store: Store, synthetic: ModuleType) -> None:
    run = synthetic.fill(store)
    with store.engine.connect() as connection:
        for view in VIEWS:
            n = connection.execute(text(f"SELECT count(*) FROM {view}")).scalar_one()
            assert n > 0 or view == "v_latent", view
        steps = connection.execute(text("SELECT n_steps FROM v_run WHERE run_id = :r"), {"r": run}).scalar_one()
        assert steps == connection.execute(text("SELECT count(*) FROM v_step")).scalar_one() > 5
        graded = connection.execute(text("SELECT sum(n) FROM v_grade")).scalar_one()
        assert graded == connection.execute(text("SELECT count(*) FROM explanation")).scalar_one()
        first = text("SELECT feature, tokens_json FROM v_exemplar WHERE rank = 0 LIMIT 1")
        assert connection.execute(first).one().feature.startswith("L0.")


def test_the_queries_for_datasette_run(store: Store, synthetic: ModuleType) -> None:
    run = synthetic.fill(store)
    with store.engine.connect() as connection:
        for query in QUERIES.values():
            assert connection.execute(text(query["sql"]), {"run_id": run, "word": "operators"}).all(), query["title"]
    tables = datasette_metadata()["databases"]["results"]["tables"]
    assert tables["v_ablation"]["columns"]["kl_nats"] == "nats per token"
