"""How well an explanation predicts, and what a feature's activity goes with, as the feature's page shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness import stats
from harness.contract.cells import finite
from harness.render.dashboard.numbers import short
from harness.render.dashboard.stored import EventRow, ScoreRow

KINDS = ("detection", "fuzzing", "intruder")
"""Kinds of score in the order in which one of them stands for the feature in lists."""

TOP_EVENTS = 8
"""Kinds of token listed per feature."""


def main_score(scored: Sequence[ScoreRow], interpreter: str) -> float | None:
    """The score by which an explanation is sorted: balanced accuracy of the first of `KINDS` there is."""
    accuracy = {s.kind: s.balanced_accuracy for s in scored if s.interpreter == interpreter}
    return next((accuracy[k] for k in KINDS if accuracy.get(k) is not None), None)


def score_data(row: ScoreRow) -> dict[str, Any]:
    """A score as JSON, with the interval of its balanced accuracy or, of a simulation, of its correlation."""
    found = row.correlation
    low, high = accuracy_interval(row) if found is None else (finite(found.low), finite(found.high))
    values = dict(vars(row))
    del values["ratings"]
    return values | {
        "balanced_accuracy": short(row.balanced_accuracy),
        "auc": short(row.auc),
        "correlation": short(found.value if found else None),
        "ci_low": short(low),
        "ci_high": short(high),
    }


def accuracy_interval(row: ScoreRow) -> tuple[float | None, float | None]:
    """95 % interval of a balanced accuracy: the two hit rates' Wilson intervals combined (MOVER, Zou and Donner 2008).

    For intruders, which are one choice per test, the Wilson interval of the share found. None where there is no number,
    or where it was scored by another rule than "0.5 and above says yes": the interval would be of something else.
    """
    if row.balanced_accuracy is None or not row.n_positive:
        return None, None
    if row.kind == "intruder":
        share = stats.share(round(row.balanced_accuracy * row.n_positive), row.n_positive)
        return share.low, share.high
    if not row.n_negative:
        return None, None
    yes = stats.share(sum(t and r is not None and r >= 0.5 for t, r in row.ratings), row.n_positive)
    no = stats.share(sum(not t and r is not None and r < 0.5 for t, r in row.ratings), row.n_negative)
    estimate = (yes.value + no.value) / 2
    if not math.isclose(estimate, row.balanced_accuracy, abs_tol=1e-6):
        return None, None
    low = math.hypot(yes.value - yes.low, no.value - no.low) / 2
    high = math.hypot(yes.high - yes.value, no.high - no.value) / 2
    return max(0.0, estimate - low), min(1.0, estimate + high)


def event_data(events: Sequence[EventRow]) -> list[dict[str, Any]]:
    """The kinds of token that a feature's activity goes with, the surest first."""
    names = ("activation_share", "odds_ratio", "ci_low", "ci_high", "q_value")
    return [vars(e) | {name: short(getattr(e, name)) for name in names} for e in events[:TOP_EVENTS]]
