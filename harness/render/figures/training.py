"""Training curves: the losses that trainers and dictionary learners logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from sqlalchemy import Connection, select

from harness.render.figures.style import Theme, clean, light_grid, new_figure, series_colour
from harness.reports.common.rows import plan_order, run_steps
from harness.store.schema import Checkpoint, Dictionary, Step

MOST_INSIDE = 5
"""Lines whose legend is put into the panel; with more it stands below."""

_UNITS = {"checkpoint": "loss (nats per token)", "dictionary": "loss (mean squared error)"}
_TITLES = {"checkpoint": "Fine-tuning", "dictionary": "Dictionaries"}
_DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1)), (0, (4, 1, 1, 1)))


@dataclass(frozen=True)
class TrainingRow:
    """One logged loss. `kind` is `checkpoint` (nats per token) or `dictionary` (mean squared error)."""

    kind: str
    name: str
    step: int
    loss: float


def training(connection: Connection, run_id: int) -> list[TrainingRow]:
    """Losses of everything that the run trained, in the order of the steps, as the trainers logged them."""
    rows = []
    tables = (
        ("checkpoint", select(Checkpoint.id, Checkpoint.losses_json, Step.plugin.label("name")), Checkpoint),
        ("dictionary", select(Dictionary.id, Dictionary.losses_json, Dictionary.name), Dictionary),
    )
    for kind, query, table in tables:
        trained = connection.execute(
            query.join(Step, Step.id == table.step_id)
            .where(table.step_id.in_(run_steps(run_id)))
            .order_by(*plan_order(run_id, table))
        )
        rows += [TrainingRow(kind, r.name or kind, int(s), float(loss)) for r in trained for s, loss in r.losses_json]
    return rows


def training_figure(rows: Sequence[TrainingRow], theme: Theme) -> Figure:
    """One panel for checkpoints, one for dictionaries; a line per thing trained, as logged, unsmoothed."""
    kinds = [k for k in _UNITS if any(r.kind == k for r in rows)]
    names = {k: list(dict.fromkeys(r.name for r in rows if r.kind == k)) for k in kinds}
    below = {k: -(-len(names[k]) // 3) if len(names[k]) > MOST_INSIDE else 0 for k in kinds}
    figure = new_figure(height_in=0.3 + 1.5 * len(kinds) + 0.12 * sum(below.values()))
    panels = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
    for axes, kind in zip(panels, kinds, strict=True):
        light_grid(axes, "both")
        lines: dict[str, list[tuple[int, float]]] = {}
        for r in rows:
            if r.kind == kind:
                lines.setdefault(r.name, []).append((r.step, r.loss))
        for number, (name, points) in enumerate(lines.items()):
            dash = _DASHES[number // len(theme.series) % len(_DASHES)]
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=series_colour(theme, number), ls=dash, label=clean(name, 22), lw=1.0,
                      marker="o" if len(points) == 1 else None, ms=2.5)  # fmt: skip
        losses = [loss for points in lines.values() for _, loss in points]
        if min(losses) > 0 and max(losses) > 20 * min(losses):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(_TITLES[kind])
        axes.set_ylabel(_UNITS[kind])
        axes.set_xlabel("optimiser step")
        if below[kind]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.36), ncols=3, fontsize=5.5, columnspacing=1.0)
        else:
            axes.legend(loc="upper right")
    return figure
