"""Gradings of features by interpreter and source, and the names of the grades.

Failed gradings stay in every denominator, by status. Dead features, which never fire, were not graded: they are counted
beside the shares, as in the paper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from harness import stats
from harness.records import PLANTED
from harness.records.base import Estimate
from harness.reports.common.features import Explained, explanations

LABELS: dict[tuple[int | None, str], str] = {
    (0, "graded"): "monosemantic",
    (1, "graded"): "broad but consistent",
    (2, "graded"): "polysemantic",
    (None, "top-only"): "on the highest alone",
    (None, "not-alone"): "not graded alone",
    (None, "unparsed"): "unparsed reply",
    (None, "failed"): "failed",
    (None, "too-few-contexts"): "too few contexts",
}
"""(grade, status) -> its name. Every feature that is not dead is in one of them."""


def outcome(e: Explained) -> tuple[int | None, str]:
    """How the grading on contexts of all strengths ended: a key of `LABELS`, or dead."""
    return e.grade, e.status


def outcome_top(e: Explained) -> tuple[int | None, str]:
    """How the grading on the highest contexts alone ended; `not-alone` where only the other was made."""
    if e.grade_top is not None:
        return e.grade_top, "graded"
    return None, "not-alone" if e.status in ("graded", "top-only") else e.status


def numbers(
    covered: Mapping[tuple[str, str, str], Any], graded: Sequence[Explained], name: str
) -> list[tuple[float, int | None]]:
    """A number of the Coverage of the features that have it, each with its layer."""
    rows = [(covered.get((g.source, g.feature, g.interpreter)), g.layer) for g in graded]
    return [(getattr(r, name), layer) for r, layer in rows if r is not None and getattr(r, name) is not None]


def mean_over_features(numbers: Sequence[tuple[float, int | None]]) -> Estimate | None:
    """Mean of one number per feature with its layer; None of none.

    The interval is the wider of two bootstraps: by layer, where features have them, and by feature.
    """
    if not numbers:
        return None
    values = [value for value, _ in numbers]
    found = stats.ratio_over_many(values, [1.0] * len(values))
    low, high = found.low, found.high
    by_layer: dict[int | None, list[float]] = defaultdict(list)
    for value, layer in numbers:
        by_layer[layer].append(value)
    if len(by_layer) > 1:
        sums, sizes = [sum(own) for own in by_layer.values()], [float(len(own)) for own in by_layer.values()]
        clustered = stats.ratio_over_documents(sums, sizes)
        low, high = min(low, clustered.low), max(high, clustered.high)
    return Estimate(found.value, max(low, 0.0), min(high, 1.0), len(values))


def gradings(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Explained]]:
    """(interpreter, source) -> its gradings, without planted features."""
    by_source: dict[tuple[str, str], list[Explained]] = defaultdict(list)
    for e in explanations(connection, run_id):
        if e.source != PLANTED:
            by_source[e.interpreter, e.source].append(e)
    return by_source
