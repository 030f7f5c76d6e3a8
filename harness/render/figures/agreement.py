"""Do two judges agree? Grades of the same features by two interpreters (or of one, with what was planted)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from harness.render.figures.style import Theme, clean, ink_on, new_figure, sequential
from harness.reports.queries import ConfusionRow

_SHORT = {0: "mono-\nsemantic", 1: "broad", 2: "poly-\nsemantic", None: "failed"}


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
