"""What was logged and what can be compared across interpreters: training curves, agreement of judges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy import Connection, select

from harness.records import PLANTED
from harness.reports.query_common import own_steps, plan_order
from harness.store.schema import Checkpoint, Dictionary, Explanation, PlantedFeature, Step

KNOWN = "what is known"
"""Stands as the first judge of planted features."""


@dataclass(frozen=True)
class TrainingRow:
    """One logged loss. `kind` is `checkpoint` (nats per token) or `dictionary` (mean squared error)."""

    kind: str
    name: str
    step: int
    loss: float


@dataclass(frozen=True)
class ConfusionRow:
    """How many of a source's features got `first_grade` from one judge and `second_grade` from the other."""

    source: str
    first: str
    second: str
    first_grade: int | None
    second_grade: int | None
    n: int
    n_features: int


def training(connection: Connection, run_id: int) -> list[TrainingRow]:
    """Losses of everything that the run trained, in the order of the steps, as the trainers logged them."""
    rows = []
    tables = (
        ("checkpoint", select(Checkpoint.id, Checkpoint.losses_json, Step.plugin.label("name")), Checkpoint),
        ("dictionary", select(Dictionary.id, Dictionary.losses_json, Dictionary.name), Dictionary),
    )
    for kind, query, table in tables:
        found = connection.execute(
            query.join(Step, Step.id == table.step_id)
            .where(table.step_id.in_(own_steps(run_id)))
            .order_by(*plan_order(run_id, table))
        )
        rows += [TrainingRow(kind, r.name or kind, int(s), float(loss)) for r in found for s, loss in r.losses_json]
    return rows


def confusion(connection: Connection, run_id: int) -> list[ConfusionRow]:
    """Grades of the features that two interpreters explained; failures are a grade (null) of their own.

    Of planted features the first judge is `KNOWN`: the grade that is right.
    """
    found = connection.execute(
        select(Explanation.source, Explanation.feature, Explanation.interpreter, Explanation.grade)
        .where(Explanation.step_id.in_(own_steps(run_id)))
        .order_by(Explanation.id)
    )
    graded: dict[str, dict[str, dict[str, int | None]]] = {PLANTED: {KNOWN: _right_grades(connection, run_id)}}
    for r in found:
        graded.setdefault(r.source, {}).setdefault(r.interpreter, {})[r.feature] = r.grade
    rows = []
    for source, judges in graded.items():
        for (first, a), (second, b) in combinations(judges.items(), 2):
            shared = [f for f in a if f in b]
            pairs = Counter((a[f], b[f]) for f in shared)
            order = sorted(pairs, key=lambda p: tuple(3 if g is None else g for g in p))
            rows += [ConfusionRow(source, first, second, *p, pairs[p], len(shared)) for p in order]
    return rows


def _right_grades(connection: Connection, run_id: int) -> dict[str, int | None]:
    p = PlantedFeature
    planted = connection.execute(select(p.feature, p.right_grade).where(p.step_id.in_(own_steps(run_id))))
    return {r.feature: r.right_grade for r in planted}
