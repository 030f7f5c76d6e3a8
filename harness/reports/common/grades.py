"""Gradings of features by interpreter and source, and the names of the grades.

Failed gradings stay in every denominator, by status. Dead features, which never fire, were not graded: they are counted
beside the shares, as in the paper.
"""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection

from harness.records import PLANTED
from harness.reports.common.features import Explained, explanations

LABELS: dict[tuple[int | None, str], str] = {
    (0, "graded"): "monosemantic",
    (1, "graded"): "broad but consistent",
    (2, "graded"): "polysemantic",
    (None, "unparsed"): "unparsed reply",
    (None, "failed"): "failed",
    (None, "too-few-contexts"): "too few contexts",
}
"""(grade, status) -> its name. Every feature that is not dead is in one of them."""


def gradings(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Explained]]:
    """(interpreter, source) -> its gradings, without planted features."""
    by_source: dict[tuple[str, str], list[Explained]] = defaultdict(list)
    for e in explanations(connection, run_id):
        if e.source != PLANTED:
            by_source[e.interpreter, e.source].append(e)
    return by_source
