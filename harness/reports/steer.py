"""Steering: dose-response of features, each push held against its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sqlalchemy import Connection

from harness.contract.cells import Cell, count, percent, significant, text, with_interval
from harness.contract.report import Block, Column, Report
from harness.records import SteeringEffect
from harness.records.base import Estimate
from harness.reports.common.families import holm_where_tested, with_holm
from harness.reports.common.rows import cached_query
from harness.store.read import records_of

SHOWN = ("kl", "p ", "n ", "score")
"""People see the quantities that begin so; JSON and CSV have all."""
ALPHA = 0.05
LEAST_SHARE = 0.1
"""Of a change that must be in excess of every control: where a push and its controls all end at 0, what is left between
them is no effect, however small its p-value."""


@dataclass(frozen=True)
class Point:
    """A push of one size: the change, and the control that comes nearest to it.

    `excess` is the least of the excesses over the controls, in the direction of the change; `p_value` the largest of
    their p-values: an effect exceeds every control (intersection-union, which needs no correction over controls).
    """

    size: float
    times_normal: float | None
    change: Estimate
    excess: Estimate | None
    control: str | None
    p_value: float | None
    n_documents: int
    p_holm: float | None = None

    @property
    def effect(self) -> bool:
        """Whether the change, its excess over each control and the corrected p-value agree that there is one."""
        if self.excess is None or self.p_holm is None or self.p_holm >= ALPHA:
            return False
        sign = 1 if self.change.value > 0 else -1
        if abs(self.excess.value) < LEAST_SHARE * abs(self.change.value):
            return False
        return all(min(sign * e.low, sign * e.high) > 0 for e in (self.change, self.excess))


@dataclass(frozen=True)
class SteerRow:
    """One quantity over the sizes of one push of a feature, against the adapter as it is.

    `size` is the smallest with an effect, else the largest; `change`, `excess`, `control` and the p-values are of it.
    `changes`: every size with its change. `trend`: whether the quantity rises (falls) from each size to the next.
    """

    feature: str
    chosen_by: str
    push: str
    where: str
    quantity: str
    unit: str
    at_rest: float
    changes: str
    trend: str
    effect: bool
    size: float
    times_normal: float | None
    change: Estimate
    excess: Estimate | None
    control: str | None
    p_value: float | None
    p_holm: float | None
    n_documents: int
    n_units: int
    reason: str | None = None


@dataclass(frozen=True)
class Curve:
    """The points of one quantity, smallest size first; `first` is the record of one of them."""

    first: SteeringEffect
    points: tuple[Point, ...]


@cached_query
def curves(connection: Connection, run_id: int) -> list[Curve]:
    """The run's curves, Holm's correction over all points of all of them."""
    grouped: dict[tuple[str, str, str, str], dict[float, list[SteeringEffect]]] = {}
    for r in records_of(connection, SteeringEffect, run_id=run_id):
        key = (r.feature, r.where, r.push, r.quantity)
        grouped.setdefault(key, {}).setdefault(r.size, []).append(r)
    found = [
        Curve(next(iter(sizes.values()))[0], tuple(_point(sizes[size]) for size in sorted(sizes)))
        for sizes in grouped.values()
    ]
    adjusted = iter(holm_where_tested([p.p_value for curve in found for p in curve.points]))
    return [replace(c, points=tuple(replace(p, p_holm=next(adjusted)) for p in c.points)) for c in found]


def _point(records: Sequence[SteeringEffect]) -> Point:
    own = next(r for r in records if r.control == "itself")
    others = [r for r in records if r.excess is not None]
    sign = 1 if own.change.value > 0 else -1
    nearest = min(others, key=lambda r: sign * r.excess.value if r.excess else 0.0, default=None)
    tested = [r.p_value for r in others]
    return Point(
        size=own.size,
        times_normal=own.times_normal,
        change=own.change,
        excess=nearest.excess if nearest else None,
        control=(nearest.control_feature or nearest.control) if nearest else None,
        p_value=max((p for p in tested if p is not None), default=None) if None not in tested else None,
        n_documents=own.n_documents,
    )


def steering(connection: Connection, run_id: int) -> list[SteerRow]:
    """One row per feature, push, place and quantity."""
    return [_row(curve) for curve in curves(connection, run_id)]


def _row(curve: Curve) -> SteerRow:
    r, points = curve.first, curve.points
    shown = next((p for p in points if p.effect), points[-1])
    rest = 1.0 if r.push == "gain" else 0.0
    values = sorted([(rest, 0.0), *((p.size, p.change.value) for p in points if p.size != rest)])
    steps = [after - before for (_, before), (_, after) in pairwise(values)]
    trend = "rises" if min(steps) > 0 else "falls" if max(steps) < 0 else "neither"
    return SteerRow(
        feature=r.feature,
        chosen_by=r.chosen_by,
        push=r.push,
        where=r.where,
        quantity=r.quantity,
        unit=r.unit,
        at_rest=r.at_rest,
        changes=" ".join(f"{p.size:g}:{p.change.value:+.2g}" for p in points),
        trend=trend,
        effect=shown.effect,
        size=shown.size,
        times_normal=shown.times_normal,
        change=shown.change,
        excess=shown.excess,
        control=shown.control,
        p_value=shown.p_value,
        p_holm=shown.p_holm,
        n_documents=shown.n_documents,
        n_units=r.n_units,
        reason=None if shown.excess else "no control of this push can be made there, or none was asked for",
    )


def _blocks(rows: Sequence[SteerRow]) -> list[Block[SteerRow]]:
    features = {row.feature: row.chosen_by for row in rows}
    return [
        Block(f"Steered: {name} ({rule})", [r for r in rows if r.feature == name and r.quantity.startswith(SHOWN)])
        for name, rule in features.items()
    ]


def _size(row: SteerRow) -> Cell:
    normal = "" if row.times_normal is None else f"{row.times_normal:.3g}x normal"
    return (f"{row.push} {row.size:g}", normal)


def _signed(value: float | None) -> str:
    return text(None) if value is None else f"{value:+.3g}"


def _quantity(row: SteerRow) -> Cell:
    return (row.quantity, row.where)


REPORT = Report[SteerRow](
    "steer",
    "Steering: what pushing a feature does, beside its controls",
    steering,
    (
        Column("quantity", _quantity, "left"),
        Column("at rest", lambda r: percent(r.at_rest, 1) if r.unit == "share" else significant(r.at_rest), leaves=1),
        Column("size: change", lambda r: (r.push, r.changes), "left", wrap=True, ratio=1),
        Column("trend", lambda r: r.trend, "left"),
        Column("effect", lambda r: "yes" if r.effect else "no", "left"),
        Column("at", _size),
        Column("change", lambda r: with_interval(r.change, _signed)),
        Column("least excess", lambda r: with_interval(r.excess, _signed)),
        Column("over", lambda r: text(r.control), "left", leaves=2),
        Column("p, Holm", lambda r: with_holm(r.p_value, r.p_holm), leaves=4),
        Column("n", lambda r: count(r.n_documents), leaves=3),
    ),
    ("ablate",),
    "steered features",
    order=106,
    label=lambda r: f"{r.feature} {r.push} {r.where} {r.quantity}",
    blocks=_blocks,
    legend=(
        "gain: the feature's own contribution times so much; dose: so many of its standard deviations added on every "
        "token of the response. Effect: change, excess over every control (other sign, random direction of the same "
        "norm, other tokens, another feature) and Holm's p over all points agree, and at least a tenth of it is in "
        "excess; shown at the smallest size that has one, else at the largest. Trend: rises or falls from each size "
        "to the next, rest included. p: probability of the event as next token; n: events per answer. 95 % intervals "
        "by bootstrap-t over documents or items, n of them. All quantities and sizes: --format json, table "
        "steering_effect (docs/steering.md)."
    ),
)
