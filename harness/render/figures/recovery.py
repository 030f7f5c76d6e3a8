"""The paper's table 1 as a figure: scores of base, adapter and full fine-tune, and recovery, all with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.contract.cells import fixed
from harness.render.figures.style import Theme, clean, light_grid, new_figure, whiskers
from harness.reports.recovery import VARIANTS, RecoveryRow

LIMITS = (-0.5, 1.75)
"""Recoveries shown; what lies beyond is an arrow at the edge."""

_MARKERS = {"base": "o", "adapter": "s", "full": "^"}
_NAMES = {"base": "base", "adapter": "adapter", "full": "full fine-tune"}


def recovery_figure(rows: Sequence[RecoveryRow], theme: Theme) -> Figure:
    """Scores on the left, recovery on the right, one line per benchmark.

    Intervals are 95 %. An interval that is unbounded, or leaves the axis, ends in an arrow. The paper's recovery of the
    corresponding benchmark is a diamond.
    """
    figure = new_figure(height_in=0.95 + 0.42 * len(rows))
    scores, shares = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    for axes in (scores, shares):
        light_grid(axes, "x")
        axes.tick_params(axis="y", length=0)
    _scores(scores, rows, theme)
    _recoveries(shares, rows, theme)
    scores.set_yticks(range(len(rows)), [f"{clean(r.benchmark, 17, 2)}\nn = {r.n_items:,}" for r in rows])
    scores.set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = [], []
    for axes in (scores, shares):
        of_axes = axes.get_legend_handles_labels()
        handles += of_axes[0]
        labels += of_axes[1]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1.0, handletextpad=0.3)
    return figure


def _scores(axes: Axes, rows: Sequence[RecoveryRow], theme: Theme) -> None:
    for number, variant in enumerate(VARIANTS):
        scores = [
            (y, score) for y, r in enumerate(rows) if r.unit == "share" and (score := getattr(r, variant)) is not None
        ]
        if not scores:
            continue
        ys, values = [y + 0.22 * (number - 1) for y, _ in scores], [score.value for _, score in scores]
        below, above = zip(*(whiskers(score) for _, score in scores), strict=True)
        axes.errorbar(values, ys, xerr=(below, above), fmt=_MARKERS[variant], color=theme.series[number], ms=3.5,
                      elinewidth=0.9, label=_NAMES[variant])  # fmt: skip
    for y, r in enumerate(rows):
        if r.unit == "nats":  # a loss has no place between 0 and 1
            means = ", ".join(fixed(mean.value if mean else None, 2) for mean in (r.base, r.adapter, r.full))
            axes.text(0.5, y, f"{means} nats", ha="center", va="center", fontsize=6, gid=f"losses-{y}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("score")
    axes.set_xticks([0, 0.5, 1])


def _recoveries(axes: Axes, rows: Sequence[RecoveryRow], theme: Theme) -> None:
    low_limit, high_limit = LIMITS
    axes.axvline(1, color=theme.ink, lw=0.6, ls=(0, (3, 2)))
    axes.axvline(0, color=theme.ink, lw=0.6)
    labelled = False
    for y, r in enumerate(rows):
        if r.recovery is None:
            axes.text(sum(LIMITS) / 2, y, "undefined", ha="center", va="center", style="italic", fontsize=6)
            continue
        value = r.recovery.value
        low, high = max(r.recovery.low, low_limit), min(r.recovery.high, high_limit)
        axes.plot(
            [low, high], [y, y], color=theme.series[1], lw=0.9, solid_capstyle="butt", gid=f"recovery-interval-{y}"
        )
        for edge, end, marker in ((low_limit, low, "<"), (high_limit, high, ">")):
            if end == edge:
                axes.plot(
                    [edge],
                    [y],
                    marker=marker,
                    color=theme.series[1],
                    ms=3.5,
                    clip_on=False,
                    gid=f"recovery-arrow-{y}{'+' if edge > 0 else '-'}",
                )
        if low_limit <= value <= high_limit:
            axes.plot([value], [y], "s", color=theme.series[1], ms=4, gid=f"recovery-estimate-{y}")
    for y, r in enumerate(rows):
        if r.paper_recovery is not None:
            label = None if labelled else "paper"
            axes.plot([r.paper_recovery], [y + 0.22], "D", mfc="none", mec=theme.ink, ms=3.5, mew=0.8, label=label,
                      gid=f"paper-{y}")  # fmt: skip
            labelled = True
    axes.set_xlim(*LIMITS)
    axes.set_xlabel("recovery (%)")
    axes.set_xticks([-0.5, 0, 0.5, 1, 1.5])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}"))
