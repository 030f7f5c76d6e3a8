"""Stored features, what interpreters said of them, and the categories that they were given."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from harness.records import PLANTED
from harness.reports.common.rows import cached_query, plan_order, run_steps
from harness.store.schema import Category, CategoryAssignment, Coverage, Explanation, Feature, Step

FeatureName = tuple[str, str]
"""(source, feature)."""


class Explained(NamedTuple):
    """One feature as one interpreter explained and graded it."""

    source: str
    feature: str
    interpreter: str
    grade: int | None
    status: str
    reason: str | None
    explanation: str | None
    layer: int | None
    grade_top: int | None


class CategoryName(NamedTuple):
    """A category, or a subcategory of `parent`, that a step made."""

    step_id: int
    parent: str | None
    category: str


@cached_query
def stored_features(connection: Connection, run_id: int) -> dict[FeatureName, Any]:
    """(source, feature) -> its row, in the order of the plan; the newest of each. Planted ones are left out."""
    f = Feature
    columns = (f.id, f.source, f.feature, f.layer, f.projection, f.density_per_token, f.activation_max,
               f.activation_sum, f.n_tokens)  # fmt: skip
    rows = connection.execute(
        select(*columns).where(f.step_id.in_(run_steps(run_id)), f.source != PLANTED).order_by(*plan_order(run_id, f))
    )
    return {(r.source, r.feature): r for r in rows}


@cached_query
def explanations(connection: Connection, run_id: int) -> list[Explained]:
    """The newest explanation of each feature by each interpreter, of planted features too."""
    stored = stored_features(connection, run_id)
    e = Explanation
    columns = (e.source, e.feature, e.interpreter, e.grade, e.status, e.reason, e.explanation, e.grade_top)
    rows = connection.execute(select(*columns).where(e.step_id.in_(run_steps(run_id))).order_by(e.id))
    newest = {(r[0], r[1], r[2]): r for r in rows}
    layers = {name: row.layer for name, row in stored.items()}
    return [Explained(*r[:7], layers.get((r[0], r[1])), r[7]) for r in newest.values()]


@cached_query
def coverages(connection: Connection, run_id: int) -> dict[tuple[str, str, str], Any]:
    """(source, feature, interpreter) -> the newest row of what its explanation is worth over all activation."""
    rows = connection.execute(select(Coverage.__table__).where(Coverage.step_id.in_(run_steps(run_id))))
    return {(r.source, r.feature, r.interpreter): r for r in sorted(rows, key=lambda r: r.id)}


@cached_query
def category_assignments(connection: Connection, run_id: int) -> list[Any]:
    """Source, feature, category, subcategory, reason, step and plugin of every assignment, in the order of storing."""
    a = CategoryAssignment
    rows = connection.execute(
        select(a.source, a.feature, a.category, a.subcategory, a.reason, a.step_id, Step.plugin)
        .join(Step, Step.id == a.step_id)
        .where(a.step_id.in_(run_steps(run_id)))
        .order_by(a.id)
    )
    return list(rows)


@cached_query
def stored_categories(connection: Connection, run_id: int) -> dict[CategoryName, Any]:
    """Name and definition of the categories and subcategories that the run's steps made."""
    c = Category
    rows = connection.execute(
        select(c.step_id, c.parent, c.category, c.name, c.definition).where(c.step_id.in_(run_steps(run_id)))
    )
    return {CategoryName(r.step_id, r.parent, r.category): r for r in rows}
