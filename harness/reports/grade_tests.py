"""Tests between sources: whether two sources have the same share of a grade."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from sqlalchemy import Connection

from harness.contract.cells import count, p_value, percent, text
from harness.contract.report import Block, Column, Report
from harness.interpretation import agreement
from harness.reports.common.features import Explained
from harness.reports.common.grades import LABELS, gradings, outcome, outcome_top

TOP_TESTS = 8
"""Tests listed per interpreter and grading; JSON and CSV have all."""

_GRADINGS = {"all": outcome, "top": outcome_top}


@dataclass(frozen=True)
class GradeTestRow:
    """Whether two sources have the same share of a grade: `graded_on` contexts of `all` strengths, or the `top` alone.

    `p_value`: exact permutation of the sources' labels within layers (over all features where the two have no layer in
    common). `p_holm`: after Holm over all tests of the interpreter and grading.
    """

    interpreter: str
    graded_on: str
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
    for (interpreter, sources), (graded_on, result) in product(by_interpreter.items(), _GRADINGS.items()):
        tests = [
            _test(key, label, result, sources[one], sources[other])
            for key, label in LABELS.items()
            for one, other in combinations(sources, 2)
            if any(result(g) == key for g in (*sources[one], *sources[other]))
        ]
        adjusted = agreement.holm([test["p_value"] for test in tests])
        of_interpreter = [
            GradeTestRow(interpreter, graded_on, **test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)
        ]
        rows += sorted(of_interpreter, key=lambda row: row.p_value)
    return rows


def _test(
    key: tuple[int | None, str], label: str, result: Callable[[Explained], tuple[int | None, str]],
    one: Sequence[Explained], other: Sequence[Explained],
) -> dict[str, Any]:  # fmt: skip
    first, second = ([result(g) == key for g in graded] for graded in (one, other))
    strata: list[list[Hashable]] = [[g.layer for g in graded] for graded in (one, other)]
    within = not {None, *strata[0]}.isdisjoint({*strata[1]} - {None})
    if not within:
        strata = [[None] * len(graded) for graded in (one, other)]
    return {
        "grade": key[0],
        "status": key[1],
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
    for interpreter, graded_on in dict.fromkeys((r.interpreter, r.graded_on) for r in rows):
        tests = [r for r in rows if (r.interpreter, r.graded_on) == (interpreter, graded_on)]
        top, on = tests[:TOP_TESTS], {"all": "contexts of all strengths", "top": "the highest contexts"}[graded_on]
        title = f"graded by {interpreter} on {on}: {len(top)} of {len(tests)} tests, smallest p first"
        blocks.append(Block(title, top))
    return blocks


REPORT = Report[GradeTestRow](
    "grade-tests",
    "Grades between sources: is the share the same?",
    grade_tests,
    (
        Column("grade", lambda r: f"{text(r.grade)} {r.label}", "left", wrap=True),
        Column("source", lambda r: (r.source, f"{percent(r.share)} of {count(r.n_features)}"), "left"),
        Column("other", lambda r: (r.other_source, f"{percent(r.other_share)} of {count(r.n_other_features)}"), "left"),
        Column("p", lambda r: p_value(r.p_value), leaves=1),
        Column("p (Holm)", lambda r: p_value(r.p_holm)),
    ),
    ("interpret",),
    "tests between sources",
    order=150,
    legend=(
        "Below the sources their shares. p: exact permutation of the sources' labels, within layers where the two "
        "sources have layers in common. Holm: over all pairs of sources and all grades of an interpreter, for each "
        "grading."
    ),
    blocks=_blocks,
)
