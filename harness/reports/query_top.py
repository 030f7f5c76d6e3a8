"""The features that people see first: the strongest of each source, chosen by the database instead of read in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import nsmallest
from typing import Any

from sqlalchemy import Connection, func, select

from harness.records import PLANTED
from harness.reports.query_common import own_steps, plan_order
from harness.reports.query_features import FeatureRow, context_of, feature_row
from harness.store.schema import CategoryAssignment, Exemplar, Explanation, Feature, Step


@dataclass(frozen=True)
class TopFeatureRow(FeatureRow):
    """A feature among the strongest of its source; `n_alike` is how many the source and interpreter have in all."""

    n_alike: int


def top_features(connection: Connection, run_id: int, top: int) -> list[TopFeatureRow]:
    """The `top` features of each source and interpreter by summed activation, in the order of `features`.

    The same rows as the first of each group in `features`, without reading the others: a second less at 50,000.
    """
    chosen = _chosen(connection, run_id, top)
    ids = [c.feature_id for c in chosen if c.feature_id is not None]
    explained = [c.explanation_id for c in chosen if c.explanation_id is not None]
    stored = {f.id: f for f in connection.execute(select(Feature.__table__).where(Feature.id.in_(ids)))}
    columns = (Explanation.id, Explanation.interpreter, Explanation.explanation, Explanation.grade, Explanation.reason)
    notes = {e.id: e for e in connection.execute(select(*columns).where(Explanation.id.in_(explained)))}
    shown = (Exemplar.feature_id.in_(ids), Exemplar.quantile.is_(None))
    counted = select(Exemplar.feature_id, func.count()).where(*shown).group_by(Exemplar.feature_id)
    counts = {r[0]: r[1] for r in connection.execute(counted)}
    tops = {
        r.feature_id: (r.tokens_json[r.target], context_of(r.tokens_json, r.target))
        for r in connection.execute(
            select(Exemplar.feature_id, Exemplar.tokens_json, Exemplar.target).where(*shown, Exemplar.rank == 0)
        )
    }  # fmt: skip
    categories = _categories(connection, run_id, [c.name[1] for c in chosen])
    rows = []
    for c in chosen:
        f, e = stored.get(c.feature_id or 0), notes.get(c.explanation_id or 0)
        category = categories.get((*c.name, c.interpreter))
        row = feature_row(c.name, f, e, category, counts.get(c.feature_id or 0, 0), tops.get(c.feature_id or 0))
        rows.append(TopFeatureRow(**asdict(row), n_alike=c.n_alike))
    return rows


@dataclass(frozen=True)
class _Chosen:
    """A feature to show, by its (source, feature) and the ids of its rows, where it has them."""

    name: tuple[str, str]
    feature_id: int | None
    interpreter: str | None
    explanation_id: int | None
    n_alike: int


def _chosen(connection: Connection, run_id: int, top: int) -> list[_Chosen]:
    """What to show, in the order of `features`: by source as stored, explained ones first; the newest of each row."""
    own = own_steps(run_id)
    f, e = Feature, Explanation
    found = connection.execute(
        select(f.source, f.feature, f.id, f.activation_sum)
        .where(f.step_id.in_(own), f.source != PLANTED)
        .order_by(*plan_order(run_id, f))
    )
    stored = {(r[0], r[1]): (r[2], r[3]) for r in found}
    said = connection.execute(
        select(e.source, e.feature, e.interpreter, e.id).where(e.step_id.in_(own), e.source != PLANTED).order_by(e.id)
    )
    explained: dict[tuple[str, str], dict[str, int]] = {}
    for r in said:
        explained.setdefault((r[0], r[1]), {})[r[2]] = r[3]
    groups: dict[tuple[str, str | None], list[tuple[float, int, tuple[str, str], int | None]]] = {}
    sources: dict[str, None] = {}
    for place, name in enumerate(dict.fromkeys([*stored, *explained])):
        sources[name[0]] = None
        weight = -(stored[name][1] or 0.0) if name in stored else 0.0
        by_interpreter: dict[Any, int | None] = {**explained.get(name, {})} or {None: None}
        for interpreter, explanation_id in by_interpreter.items():
            groups.setdefault((name[0], interpreter), []).append((weight, place, name, explanation_id))
    order = {source: i for i, source in enumerate(sources)}
    return [
        _Chosen(name, stored[name][0] if name in stored else None, interpreter, explanation_id, len(own_rows))
        for (source, interpreter), own_rows in sorted(groups.items(), key=lambda g: (order[g[0][0]], g[0][1] is None))
        for _, _, name, explanation_id in nsmallest(top, own_rows, key=lambda r: r[:2])
    ]


def _categories(connection: Connection, run_id: int, names: Sequence[str]) -> dict[tuple[str, str, str | None], str]:
    a = CategoryAssignment
    found = connection.execute(
        select(a.source, a.feature, Step.plugin, a.category)
        .join(Step, Step.id == a.step_id)
        .where(a.step_id.in_(own_steps(run_id)), a.feature.in_(names))
        .order_by(a.id)
    )
    return {(r.source, r.feature, r.plugin): r.category for r in found}
