"""Agreement of two judges: grades of the same features by two interpreters, or of planted features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from sqlalchemy import Connection, select

from harness.records import PLANTED
from harness.render.figures.style import Theme, clean, ink_on, new_figure, sequential
from harness.reports.common.features import explanations
from harness.reports.common.rows import run_steps
from harness.store.schema import PlantedFeature

_SHORT = {0: "mono-\nsemantic", 1: "broad", 2: "poly-\nsemantic", None: "failed"}


KNOWN = "what is known"
"""Name of the first judge of planted features: their right grade."""


@dataclass(frozen=True)
class ConfusionRow:
    """How many of a source's features got `first_grade` from one judge and `second_grade` from the other."""

    source: str
    first: str
    second: str
    first_grade: int | None
    second_grade: int | None
    n: int
    n_features: int


def confusion(connection: Connection, run_id: int) -> list[ConfusionRow]:
    """Grades of the features that two interpreters explained; failures are a grade (null) of their own.

    The grade is the one on contexts of all strengths; where a judge was asked of the highest alone, that one.
    Of planted features the first judge is `KNOWN`: the grade that is right.
    """
    p = PlantedFeature
    planted = connection.execute(select(p.feature, p.right_grade).where(p.step_id.in_(run_steps(run_id))))
    right: dict[str, int | None] = {r.feature: r.right_grade for r in planted}
    graded: dict[str, dict[str, dict[str, int | None]]] = {PLANTED: {KNOWN: right}}
    for e in explanations(connection, run_id):
        graded.setdefault(e.source, {}).setdefault(e.interpreter, {})[e.feature] = (
            e.grade_top if e.status == "top-only" else e.grade
        )
    rows = []
    for source, judges in graded.items():
        for (first, a), (second, b) in combinations(judges.items(), 2):
            shared = [f for f in a if f in b]
            pairs = Counter((a[f], b[f]) for f in shared)
            order = sorted(pairs, key=lambda p: tuple(3 if g is None else g for g in p))
            rows += [ConfusionRow(source, first, second, *p, pairs[p], len(shared)) for p in order]
    return rows


def confusion_figure(rows: Sequence[ConfusionRow], theme: Theme) -> Figure:
    """Counts of one pair, first judge down, second across; colour is the share of the first judge's row."""
    grades = [0, 1, 2, None]
    counts = np.zeros((4, 4), dtype=int)
    for r in rows:
        counts[grades.index(r.first_grade), grades.index(r.second_grade)] += r.n
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(height_in=2.3)
    axes = figure.subplots()
    colours = sequential(theme)
    axes.pcolormesh(shares, vmin=0, vmax=1, cmap=colours, edgecolor=theme.ground, linewidth=1.0).set_gid("confusion")
    axes.invert_yaxis()
    for (i, j), n in np.ndenumerate(counts):
        axes.text(j + 0.5, i + 0.5, f"{n:,}", ha="center", va="center", color=ink_on(colours(shares[i, j])[:3]))
    labels = [_SHORT[g] for g in grades]
    axes.set_xticks(np.arange(4) + 0.5, labels)
    axes.set_yticks(np.arange(4) + 0.5, labels)
    axes.tick_params(length=0)
    axes.set_xlabel(clean(rows[0].second, 40))
    axes.set_ylabel(clean(rows[0].first, 30))
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
