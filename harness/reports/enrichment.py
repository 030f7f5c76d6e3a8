"""Enrichment: which kinds of tokens the features go with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, func, select

from harness.contract.cells import count, inline, p_value, percent, significant, text
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate
from harness.reports.common.features import stored_features
from harness.reports.common.rows import row_from, run_steps
from harness.store.schema import Enrichment, EventAssociation

SIGNIFICANT = 0.05
"""q-value below which an association counts."""

FLOOR = 3.0
"""What the interval of an enriched feature's odds ratio is above: of thousands of tokens any leaning is significant."""

RANDOM = "random-directions"
"""The source whose count stands beside the others'."""


@dataclass(frozen=True)
class EnrichmentRow:
    """One feature and one kind of token; `n_enriched` counts the source's features that favour it.

    `n_enriched_random` of `n_random` random directions do; None where the run has none. Enriched: q < 0.05, and the
    95 % interval of the odds ratio above 3.
    """

    source: str
    feature: str
    layer: int | None
    projection: str | None
    family: str
    event: str
    n_event: int
    n_both: int
    n_active: int
    n_tokens: int
    n_documents: int
    active_above: float
    activation_share: float | None
    odds_ratio: Estimate | None
    p_value: float | None
    q_value: float | None
    n_enriched: int
    n_features: int
    n_enriched_random: int | None
    n_random: int | None
    reason: str | None


def enrichment(connection: Connection, run_id: int, most_per_kind: int | None = None) -> list[EnrichmentRow]:
    """Features and kinds of token; within a source and kind the surest enrichment (largest lower bound) first.

    Args:
        connection: to the database.
        run_id: the run.
        most_per_kind: only so many features of each source and kind; all of them if not given.
    """
    e, a = Enrichment, EventAssociation
    kind = (e.source, a.family, a.event)
    is_enriched = case((and_(a.q_value < SIGNIFICANT, a.ci_low > FLOOR), 1), else_=0)
    surest_first = (func.coalesce(a.ci_low, 0.0).desc(), e.id, a.id)
    ranked = (
        select(
            a.id,
            func.sum(is_enriched).over(partition_by=kind).label("n_enriched"),
            func.count().over(partition_by=kind).label("n_features"),
            func.min(a.id).over(partition_by=kind).label("first"),
            func.row_number().over(partition_by=kind, order_by=surest_first).label("rank"),
        )
        .join(e, e.id == a.enrichment_id)
        .where(e.step_id.in_(run_steps(run_id)))
        .subquery()
    )
    query = (
        select(
            a.__table__, e.source, e.feature, e.n_active, e.n_tokens, e.n_documents, e.active_above,
            a.ci_low.label("odds_ratio_ci_low"), a.ci_high.label("odds_ratio_ci_high"),
            ranked.c.n_enriched, ranked.c.n_features,
        )
        .join(a, a.enrichment_id == e.id)
        .join(ranked, ranked.c.id == a.id)
        .order_by(ranked.c.first, ranked.c.rank)
    )  # fmt: skip
    if most_per_kind is not None:
        query = query.where(ranked.c.rank <= most_per_kind)
    stored = stored_features(connection, run_id)
    found = connection.execute(query).all()
    random = {(r.family, r.event): (int(r.n_enriched), r.n_features) for r in found if r.source == RANDOM}
    rows = []
    for r in found:
        n_random = random.get((r.family, r.event), (None, None))
        feature = stored.get((r.source, r.feature))
        layer, projection = (feature.layer, feature.projection) if feature else (None, None)
        rows.append(
            row_from(
                EnrichmentRow, r, layer=layer, projection=projection, n_enriched=int(r.n_enriched),
                n_enriched_random=n_random[0], n_random=n_random[1],
            )
        )  # fmt: skip
    return rows


def _random(row: EnrichmentRow) -> str:
    return text(None) if row.n_random is None else f"{count(row.n_enriched_random)} of {count(row.n_random)}"


def _blocks(rows: Sequence[EnrichmentRow]) -> list[Block[EnrichmentRow]]:
    """Per source, each kind of token with the feature that favours it most surely."""
    surest: dict[str, dict[tuple[str, str], EnrichmentRow]] = {}
    for row in rows:
        surest.setdefault(row.source, {}).setdefault((row.family, row.event), row)
    return [Block(f"{source}: the feature that favours each kind most surely", list(by_kind.values()))
            for source, by_kind in surest.items()]  # fmt: skip


REPORT = Report[EnrichmentRow](
    "enrichment",
    "Enrichment: which tokens features go with",
    enrichment,
    (
        Column("kind", lambda r: r.family, "left"),
        Column("tokens", lambda r: r.event, "left"),
        Column("n", lambda r: count(r.n_event)),
        Column("enriched", lambda r: f"{count(r.n_enriched)} of {count(r.n_features)}"),
        Column("random", _random, leaves=3),
        Column("feature", lambda r: r.feature, "left"),
        Column("odds ratio", lambda r: inline(r.odds_ratio, significant)),
        Column("of activation", lambda r: percent(r.activation_share), leaves=1),
        Column("q", lambda r: p_value(r.q_value), leaves=2),
    ),
    ("enrich",),
    "features held against kinds of tokens",
    order=190,
    label=lambda r: r.source,
    legend=(
        "Odds of being active on such tokens over the odds elsewhere; 95 % intervals and p with documents as clusters; "
        "q: Benjamini-Hochberg over the source. enriched: features with q < 0.05 and an interval above 3; random: as "
        "many of the random directions. All features: --format json or csv."
    ),
    blocks=_blocks,
    preview=lambda connection, run_id: enrichment(connection, run_id, most_per_kind=1),
)
