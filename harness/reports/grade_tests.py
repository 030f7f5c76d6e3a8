"""Tests between sources: whether two sources have the same share of a grade."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import Connection

from harness.contract.cells import count, p_value, percent, text
from harness.contract.report import Block, Column, Report
from harness.interpretation import agreement
from harness.reports.common.features import Explained
from harness.reports.common.grades import LABELS, gradings

TOP_TESTS = 12
"""Tests listed per interpreter; JSON and CSV have all."""


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


def grade_tests(connection: Connection, run_id: int) -> list[GradeTestRow]:
    """Every pair of sources, every grade: is the share the same? Smallest p first within each interpreter."""
    by_interpreter: dict[str, dict[str, list[Explained]]] = defaultdict(dict)
    for (interpreter, source), graded in gradings(connection, run_id).items():
        alive = [g for g in graded if g.status != "dead"]
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
        of_interpreter = [GradeTestRow(**test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]
        rows += sorted(of_interpreter, key=lambda row: row.p_value)
    return rows


def _test(
    interpreter: str, grade: int | None, status: str, label: str, one: Sequence[Explained], other: Sequence[Explained]
) -> dict[str, Any]:
    first, second = ([(g.grade, g.status) == (grade, status) for g in graded] for graded in (one, other))
    strata: list[list[Hashable]] = [[g.layer for g in graded] for graded in (one, other)]
    within = not {None, *strata[0]}.isdisjoint({*strata[1]} - {None})
    if not within:
        strata = [[None] * len(graded) for graded in (one, other)]
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


def _blocks(rows: Sequence[GradeTestRow]) -> list[Block[GradeTestRow]]:
    blocks = []
    for interpreter in dict.fromkeys(r.interpreter for r in rows):
        tests = [r for r in rows if r.interpreter == interpreter]
        top = tests[:TOP_TESTS]
        blocks.append(Block(f"graded by {interpreter}: {len(top)} of {len(tests)} tests, smallest p first", top))
    return blocks


REPORT = Report[GradeTestRow](
    "grade-tests",
    "Grades between sources: is the share the same?",
    grade_tests,
    (
        Column("grade", lambda r: f"{text(r.grade)} {r.label}", "left"),
        Column("source", lambda r: r.source, "left"),
        Column("share", lambda r: f"{percent(r.share)} of {count(r.n_features)}"),
        Column("other source", lambda r: r.other_source, "left"),
        Column("share", lambda r: f"{percent(r.other_share)} of {count(r.n_other_features)}"),
        Column("p", lambda r: p_value(r.p_value)),
        Column("p (Holm)", lambda r: p_value(r.p_holm)),
    ),
    ("interpret",),
    "tests between sources",
    order=150,
    legend=(
        "p: exact permutation of the sources' labels, within layers where the two sources have layers in common. "
        "Holm: over all pairs of sources and all grades of an interpreter."
    ),
    blocks=_blocks,
)
