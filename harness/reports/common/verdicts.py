"""The rule by which a claim of the paper is judged: one word, from our 95 % interval and the paper's number.

Numbers are a property of the paper's model and data, so another model does not test them. Patterns (this is larger than
that) can be tested on any model; on another one they are `consistent` at best.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from harness.stats import Estimate

Word = Literal["reproduced", "consistent", "contradicted", "not resolved at this n", "not tested"]

RESOLUTION = 0.15
"""Half the width of an interval of a share above which it does not resolve a claim: 15 points."""

RULE = (
    "Rule, with our 95 % interval: a number is reproduced if the interval holds it, consistent if it only overlaps the "
    "paper's interval, contradicted if the two are disjoint, not resolved if it is wider than 15 points either way; "
    "only the paper's model tests numbers. A pattern holds if the whole interval of the difference is on the claimed "
    "side (reproduced on the paper's model, consistent on another), is contradicted if it is all on the other side, "
    "else not resolved."
)
"""The rule in words, for the legend."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, and its reason where the numbers do not show it."""

    word: Word
    reason: str | None = None


def judge_number(
    ours: Estimate | None, paper: Estimate, *, same_model: bool, resolution: float = RESOLUTION
) -> Verdict:
    """Judge a number; `paper` has its own interval, or is a point.

    Args:
        ours: estimate and interval; None where we have no such number.
        paper: as printed.
        same_model: whether ours is from the paper's model.
        resolution: half-width above which our interval does not resolve the claim.
    """
    if ours is None:
        return Verdict("not tested")
    if not same_model:
        return Verdict("not tested", "another model: this number is a property of the paper's")
    if ours.low > paper.high or ours.high < paper.low:
        return Verdict("contradicted")
    if not ours.bounded or (ours.high - ours.low) / 2 > resolution:
        return Verdict("not resolved at this n")
    return Verdict("reproduced" if ours.low <= paper.value <= ours.high else "consistent")


def judge_count(ours: float | None, paper: float, *, same_model: bool, tolerance: float = 0.0) -> Verdict:
    """Judge an exact count, or one that is printed as `roughly` (a relative tolerance)."""
    if ours is None:
        return Verdict("not tested")
    if not same_model:
        return Verdict("not tested", "another model: this number is a property of the paper's")
    near = abs(ours - paper) <= tolerance * paper
    return Verdict("reproduced" if near else "contradicted")


def judge_top(ours: Collection[int] | None, paper: Collection[int], *, same_model: bool) -> Verdict:
    """Judge a set of layers: all of them reproduce it, half of them are consistent (chance for 2 of 4 in 64: 1.7 %)."""
    if ours is None:
        return Verdict("not tested")
    if not same_model:
        return Verdict("not tested", "another model: its layers are not the paper's")
    shared = len(set(ours) & set(paper))
    if shared == len(paper):
        return Verdict("reproduced")
    return Verdict("consistent" if 2 * shared >= len(paper) else "contradicted", f"{shared} of {len(paper)} shared")


def judge_pattern(difference: Estimate | None, *, same_model: bool, above: float = 0.0) -> Verdict:
    """Judge that a difference (or share) is above a threshold."""
    if difference is None:
        return Verdict("not tested")
    if difference.low > above:
        return Verdict("reproduced" if same_model else "consistent")
    return Verdict("contradicted" if difference.high < above else "not resolved at this n")


def judge_equal(difference: Estimate | None, *, same_model: bool, margin: float = 0.1) -> Verdict:
    """Judge that two shares are roughly the same: their difference lies within ±margin."""
    if difference is None:
        return Verdict("not tested")
    if -margin < difference.low and difference.high < margin:
        return Verdict("reproduced" if same_model else "consistent")
    beyond = difference.low > margin or difference.high < -margin
    return Verdict("contradicted" if beyond else "not resolved at this n")
