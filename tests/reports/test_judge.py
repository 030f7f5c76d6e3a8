"""What the judge's report says of a judge in words, by the planted features whose right grade is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.reports.common.planted import PlantedGrade
from harness.reports.judge import _in_words, _verdict


def planted(*grades: tuple[int, int | None], status: str = "graded") -> list[PlantedGrade]:
    """(right grade, the one given), the latter also on the highest contexts alone."""

    def explained(grade: int | None) -> Any:
        return SimpleNamespace(grade_top=grade)

    return [PlantedGrade("token", right, 0.01, given, status, explained(given)) for right, given in grades]


RIGHT = [0] * 4 + [1] * 9 + [2] * 7  # one grade for all is right on 9 of 20


def test_a_judge_that_is_mostly_right_is_told_from_one_that_does_not_look() -> None:
    row = _verdict("good", planted(*((r, r) for r in RIGHT[:16]), *((r, 0) for r in RIGHT[16:])))
    assert (row.n, row.n_features) == (16, 20)
    assert _in_words(row) == "good is right more often than one grade for all (45 %)"


def test_a_judge_with_one_grade_for_all_is_not_to_be_believed() -> None:
    row = _verdict("blind", planted(*((r, 1) for r in RIGHT)))
    assert row.n == 9
    assert _in_words(row) == (
        "blind is NOT TO BE BELIEVED: not shown to be right more often than one grade for all (45 %)"
    )


def test_failed_gradings_are_wrong_ones() -> None:
    failed = planted(*((r, None) for r in RIGHT[4:]), status="unparsed")
    row = _verdict("mute", [*planted(*((r, r) for r in RIGHT[:4])), *failed])
    assert (row.n, row.n_features) == (4, 20)
    assert "NOT TO BE BELIEVED" in _in_words(row)


def test_a_judge_that_saw_the_highest_contexts_alone_is_judged_by_these() -> None:
    grades = planted(*((r, r) for r in RIGHT), status="top-only")
    row = _verdict("top", grades)
    assert (row.n, row.n_top, row.value) == (None, 20, None)
    assert _in_words(row).startswith("top is right more often")
