"""The feature that favours each kind of token most surely: the rows of `enrichment` that people see."""

from __future__ import annotations

from sqlalchemy import Connection, and_, case, func, select

from harness.reports.query_common import own_steps
from harness.reports.query_judgements import SIGNIFICANT, EnrichmentRow, enrichment_columns, enrichment_row
from harness.store.schema import Enrichment, EventAssociation, Feature


def top_enrichment(connection: Connection, run_id: int) -> list[EnrichmentRow]:
    """The first row of each source and kind of token in `enrichment`; the database counts and chooses."""
    e, a = Enrichment, EventAssociation
    kind = (e.source, a.family, a.event)
    sure = func.coalesce(a.ci_low, 0.0)
    enriched = case((and_(a.q_value < SIGNIFICANT, a.odds_ratio > 1), 1), else_=0)
    best = (
        select(*kind, func.max(sure).label("surest"), func.sum(enriched).label("n_enriched"),
               func.count().label("n_features"), func.min(a.id).label("first"))
        .join(a, a.enrichment_id == e.id)
        .where(e.step_id.in_(own_steps(run_id)))
        .group_by(*kind)
        .subquery()
    )  # fmt: skip
    of_kind = and_(best.c.source == e.source, best.c.family == a.family, best.c.event == a.event, best.c.surest == sure)
    found = connection.execute(
        select(*enrichment_columns(), best.c.n_enriched, best.c.n_features)
        .join(a, a.enrichment_id == e.id)
        .join(best, of_kind)
        .where(e.step_id.in_(own_steps(run_id)))
        .order_by(best.c.first, e.id, a.id)
    )
    rows = list({(r.source, r.family, r.event): r for r in reversed(found.all())}.values())[::-1]  # first of equals
    names = {r.feature for r in rows}
    f = Feature
    stored = select(f.source, f.feature, f.layer, f.projection).where(
        f.step_id.in_(own_steps(run_id)), f.feature.in_(names)
    )
    places = {(p.source, p.feature): p for p in connection.execute(stored)}
    counted = ("n_enriched", "n_features")
    return [
        enrichment_row(
            {name: value for name, value in r._asdict().items() if name not in counted},
            places.get((r.source, r.feature)), n_enriched=int(r.n_enriched), n_features=r.n_features,
        )
        for r in rows
    ]  # fmt: skip
