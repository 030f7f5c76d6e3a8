"""Shares of the grades per source, and tests between sources. Failed gradings stay in every denominator, by status.

Dead features, which never fire, were not graded: they are counted beside the shares, as in the paper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import Connection, select

from harness import stats
from harness.interpretation import agreement
from harness.records import PLANTED
from harness.reports.query_common import claims, finite, once, own_steps
from harness.store.claims import PAPER_SOURCES
from harness.store.schema import Explanation, Feature

LABELS: dict[tuple[int | None, str], str] = {
    (0, "graded"): "monosemantic",
    (1, "graded"): "broad but consistent",
    (2, "graded"): "polysemantic",
    (None, "unparsed"): "unparsed reply",
    (None, "failed"): "failed",
    (None, "too-few-contexts"): "too few contexts",
}
"""(grade, status) -> its name. Every feature that is not dead is in one of them."""


@dataclass(frozen=True)
class GradeRow:
    """The share of a source's features with one grade, or with one reason for having none.

    `n_features` is the denominator: all that were to be graded, failures included, dead ones (`n_dead`) not. 95 %
    interval by bootstrap over layers, Wilson's at least.
    """

    source: str
    interpreter: str
    grade: int | None
    status: str
    label: str
    n: int
    n_features: int
    n_dead: int
    share: float
    share_ci_low: float | None
    share_ci_high: float | None
    paper_source: str | None
    paper_share: float | None


@dataclass(frozen=True)
class GradeTestRow:
    """Whether two sources have the same share of a grade.

    `p_value`: exact permutation of the sources' labels within layers (over all features where the two have no layer in
    common). `p_holm`: after Holm over all tests of the interpreter.
    """

    interpreter: str
    grade: int | None
    status: str
    label: str
    source: str
    share: float
    n_features: int
    other_source: str
    other_share: float
    n_other_features: int
    difference: float
    within_layers: bool
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class Graded:
    """One feature as one interpreter graded it."""

    source: str
    feature: str
    interpreter: str
    layer: int | None
    grade: int | None
    status: str
    explanation: str | None


@once
def grades(connection: Connection, run_id: int) -> list[GradeRow]:
    """Shares of the grades among the features that each interpreter was shown."""
    printed = claims(connection)
    rows = []
    for (interpreter, source), own in _by_source(connection, run_id).items():
        alive = [g for g in own if g.status != "dead"]
        paper = PAPER_SOURCES.get(source)
        for (grade, status), label in LABELS.items():
            hits = [(g.grade, g.status) == (grade, status) for g in alive]
            if not alive or (not any(hits) and status not in ("graded", "unparsed")):
                continue
            found = stats.clustered_share(hits, [g.layer for g in alive])
            rows.append(
                GradeRow(
                    source=source,
                    interpreter=interpreter,
                    grade=grade,
                    status=status,
                    label=label,
                    n=sum(hits),
                    n_features=len(alive),
                    n_dead=len(own) - len(alive),
                    share=found.value,
                    share_ci_low=finite(found.low),
                    share_ci_high=finite(found.high),
                    paper_source=paper,
                    paper_share=printed.get((f"grade/{grade}", str(paper))),
                )
            )
    return rows


def grade_tests(connection: Connection, run_id: int) -> list[GradeTestRow]:
    """Every pair of sources, every grade: is the share the same? Smallest p first within each interpreter."""
    by_interpreter: dict[str, dict[str, list[Graded]]] = defaultdict(dict)
    for (interpreter, source), own in _by_source(connection, run_id).items():
        alive = [g for g in own if g.status != "dead"]
        if alive:
            by_interpreter[interpreter][source] = alive
    rows = []
    for interpreter, sources in by_interpreter.items():
        tests = [
            _test(interpreter, grade, status, label, sources[one], sources[other])
            for (grade, status), label in LABELS.items()
            for one, other in combinations(sources, 2)
            if any((g.grade, g.status) == (grade, status) for g in (*sources[one], *sources[other]))
        ]
        adjusted = agreement.holm([test["p_value"] for test in tests])
        found = [GradeTestRow(**test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]
        rows += sorted(found, key=lambda row: row.p_value)
    return rows


def _test(
    interpreter: str, grade: int | None, status: str, label: str, one: Sequence[Graded], other: Sequence[Graded]
) -> dict[str, Any]:
    first, second = ([(g.grade, g.status) == (grade, status) for g in own] for own in (one, other))
    strata: list[list[Hashable]] = [[g.layer for g in own] for own in (one, other)]
    within = not {None, *strata[0]}.isdisjoint({*strata[1]} - {None})
    if not within:
        strata = [[None] * len(own) for own in (one, other)]
    return {
        "interpreter": interpreter,
        "grade": grade,
        "status": status,
        "label": label,
        "source": one[0].source,
        "share": sum(first) / len(first),
        "n_features": len(first),
        "other_source": other[0].source,
        "other_share": sum(second) / len(second),
        "n_other_features": len(second),
        "difference": sum(first) / len(first) - sum(second) / len(second),
        "within_layers": within,
        "p_value": agreement.stratified_permutation(first, second, *strata),
    }


@once
def graded(connection: Connection, run_id: int) -> list[Graded]:
    """The newest grading of each feature by each interpreter, planted features included."""
    steps = own_steps(run_id)
    layers = {
        (f.source, f.feature): f.layer
        for f in connection.execute(
            select(Feature.source, Feature.feature, Feature.layer).where(Feature.step_id.in_(steps))
        )
    }
    e = Explanation
    found = connection.execute(
        select(e.source, e.feature, e.interpreter, e.grade, e.status, e.explanation)
        .where(e.step_id.in_(steps))
        .order_by(e.id)
    )
    newest = {(r.source, r.feature, r.interpreter): r for r in found}
    return [
        Graded(
            source=r.source,
            feature=r.feature,
            interpreter=r.interpreter,
            layer=layers.get((r.source, r.feature)),
            grade=r.grade,
            status=r.status,
            explanation=r.explanation,
        )
        for r in newest.values()
    ]


def _by_source(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Graded]]:
    """(interpreter, source) -> its gradings, without planted features."""
    by_source: dict[tuple[str, str], list[Graded]] = defaultdict(list)
    for g in graded(connection, run_id):
        if g.source != PLANTED:
            by_source[g.interpreter, g.source].append(g)
    return by_source
