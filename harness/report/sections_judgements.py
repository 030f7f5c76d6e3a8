"""The reports of interpretation: grades, tests between sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.report.cells import Column, count, inline, p_value, percent, text
from harness.report.section import Block, Section
from harness.results import queries

TOP_TESTS = 12
"""Tests between sources listed; JSON and CSV have all."""


def _test_blocks(rows: Sequence[Any]) -> list[Block]:
    blocks = []
    for interpreter in dict.fromkeys(r.interpreter for r in rows):
        own = [r for r in rows if r.interpreter == interpreter]
        shown = own[:TOP_TESTS]
        blocks.append(Block(f"graded by {interpreter}: {len(shown)} of {len(own)} tests, smallest p first", shown))
    return blocks


_GRADES = Section(
    "grades",
    "Grades: how monosemantic the explained features are",
    queries.grades,
    (
        Column("source", lambda r: r.source, "left"),
        Column("interpreter", lambda r: r.interpreter, "left"),
        Column("grade", lambda r: f"{text(r.grade)} {r.label}", "left"),
        Column("features", lambda r: f"{count(r.n)} of {count(r.n_features)}"),
        Column("dead", lambda r: count(r.n_dead)),
        Column("share", lambda r: inline(r.share, r.share_ci_low, r.share_ci_high, percent)),
        Column("paper", lambda r: percent(r.paper_share)),
    ),
    ("interpret",),
    "explanations",
    legend=(
        "Failed gradings stay in the denominator, dead features are counted beside it. 95 % intervals: bootstrap by "
        "layer, Wilson at least."
    ),
    after=("grade-tests",),
)

_GRADE_TESTS = Section(
    "grade-tests",
    "Grades between sources: is the share the same?",
    queries.grade_tests,
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
    legend=(
        "p: 20,000 permutations of the sources' labels, within layers where the two sources have layers in common. "
        "Holm: over all pairs of sources and all grades of an interpreter."
    ),
    blocks=_test_blocks,
)

JUDGEMENTS = (_GRADES, _GRADE_TESTS)
"""In the order in which they are read."""
