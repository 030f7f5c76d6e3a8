"""The rules by which a claim of the paper is judged: one word, from an interval, a margin or a corrected p-value.

Numbers are a property of the paper's model and data, so another model does not test them. What a clause says (this is
larger than that) can be tested on any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.contract.cells import Cell
from harness.records.base import Estimate
from harness.reports.common.differences import independent_difference

Word = Literal[
    "reproduced", "consistent", "contradicted", "not resolved", "not tested", "other model: not judged"
]  # fmt: skip

ALPHA = 0.05
"""Corrected p-values below it resolve a clause."""

NARROWER = 1.6448536269514722 / 1.959963984540054
"""Half-width of a 90 % interval by that of the 95 % interval: exact for the normal, too wide for Student's t."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, and its reason where the numbers do not show it."""

    word: Word
    reason: str | None = None


def judge_number(ours: Estimate | None, paper: Estimate, margin: float, *, same_model: bool) -> Verdict:
    """Judge a number by equivalence: the difference of ours and the paper's, both uncertain, lies within the margin.

    Args:
        ours: with its 95 % interval; None where we have no such number.
        paper: as printed, with the 95 % interval that its counts allow.
        margin: in the number's unit.
        same_model: whether ours is from the paper's model.
    """
    if ours is None:
        return Verdict("not tested")
    if not same_model:
        return Verdict("other model: not judged")
    found = judge_alike(independent_difference(ours, paper), margin)
    if found.word == "not resolved" and NARROWER * (paper.high - paper.low) / 2 > margin:
        return Verdict("not resolved", "the paper's own interval is wider than the margin")
    return Verdict("reproduced", found.reason) if found.word == "consistent" else found


def judge_alike(difference: Estimate, margin: float) -> Verdict:
    """Judge that two numbers are alike, by two one-sided tests: the 90 % interval of their difference is in ±margin.

    Contradicted where the whole 95 % interval is outside.
    """
    low = difference.value - NARROWER * (difference.value - difference.low)
    high = difference.value + NARROWER * (difference.high - difference.value)
    if -margin <= low and high <= margin:
        return Verdict("consistent")
    return Verdict("contradicted" if difference.low > margin or difference.high < -margin else "not resolved")


def judge_direction(difference: Estimate, p_corrected: float, *, above: float = 0.0) -> Verdict:
    """Judge that a difference (or ratio) is above a threshold: its interval and its corrected p-value must agree."""
    if p_corrected >= ALPHA or difference.low <= above <= difference.high:
        return Verdict("not resolved")
    return Verdict("consistent" if difference.low > above else "contradicted")


_WORST_FIRST: tuple[Word, ...] = (
    "contradicted", "not resolved", "not tested", "other model: not judged", "consistent", "reproduced",
)  # fmt: skip


def conjunction(parts: Sequence[tuple[str, Word]]) -> Verdict:
    """The verdict on all of several parts: the worst of theirs; the reason names the parts that have it.

    Args:
        parts: what each says, and its word; at least one.
    """
    worst = min((word for _, word in parts), key=_WORST_FIRST.index)
    named = "; ".join(says for says, word in parts if word == worst)
    return Verdict(worst, None if worst in ("consistent", "reproduced") else f"{worst}: {named}")


def exactly_one(words: Sequence[Word]) -> Verdict:
    """The verdict on a clause that exactly one of its cases must show."""
    n, found = len(words), words.count("consistent")
    if found == 1:
        return Verdict("consistent", f"shown by 1 of {n}")
    if found > 1:
        return Verdict("contradicted", f"shown by {found} of {n}")
    none = words.count("contradicted") == n
    return Verdict("contradicted" if none else "not resolved", f"shown by none of {n}")


def verdict_cell(word: str) -> Cell:
    """A verdict on as little width as it takes."""
    return tuple(word.split(": "))
