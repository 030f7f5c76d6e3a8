"""What was captured: what was read, in which unit, how dense and how large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from harness.contract.cells import Cell, count, percent, short, significant, text
from harness.contract.report import Column, Report
from harness.reports.common.rows import plan_order, row_from, run_steps
from harness.store.schema import ActivationSet, Feature

_SHARES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class CaptureRow:
    """One activation set.

    Attributes:
        source: its name.
        site: where its columns were read.
        unit: raw, write or zscore; None for a set captured before units were stored (so are the fields below).
        numerics: how the model was run.
        dtype: of the stored values.
        sparse: whether only what is not 0 is stored.
        n_documents: documents, parts of split ones included.
        n_split: documents that were longer than the context.
        n_tokens: tokens.
        n_columns: components, neurons, directions or latents.
        n_features: columns, both polarities of a signed one.
        n_dead: features that no ranked token activates.
        density_q05: 5 % of the features are active on at most this share of the ranked tokens.
        density_q50: the median feature's share.
        density_q95: 95 % of the features.
        activation_q50: median of all absolute activations, in the unit.
        activation_q90: 90 % of them are at most this.
        activation_q99: 99 %.
        activation_max: the largest.
        n_bytes: size of the arrays on disk.
        path: their folder.
    """

    source: str
    site: str
    unit: str | None
    numerics: str | None
    dtype: str | None
    sparse: bool | None
    n_documents: int
    n_split: int | None
    n_tokens: int
    n_columns: int
    n_features: int
    n_dead: int
    density_q05: float | None
    density_q50: float | None
    density_q95: float | None
    activation_q50: float | None
    activation_q90: float | None
    activation_q99: float | None
    activation_max: float | None
    n_bytes: int | None
    path: str


def captures(connection: Connection, run_id: int) -> list[CaptureRow]:
    """All activation sets of a run, in the order in which they were made."""
    a, f = ActivationSet, Feature
    sets = connection.execute(
        select(a.__table__).where(a.step_id.in_(run_steps(run_id))).order_by(*plan_order(run_id, a))
    ).all()
    density: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in connection.execute(
        select(f.step_id, f.source, f.density_per_token).where(f.step_id.in_(run_steps(run_id)))
    ):
        density[row.step_id, row.source].append(row.density_per_token)
    return [_row(s, density[s.step_id, s.source]) for s in sets]


def _row(s: Any, density: Sequence[float]) -> CaptureRow:
    q05, q50, q95 = np.quantile(density, _SHARES).tolist() if density else (None, None, None)
    values = {float(share): float(value) for share, value in s.quantiles_json or []}
    return row_from(
        CaptureRow,
        s,
        n_features=len(density),
        n_dead=sum(d == 0 for d in density),
        density_q05=q05,
        density_q50=q50,
        density_q95=q95,
        activation_q50=values.get(0.5),
        activation_q90=values.get(0.9),
        activation_q99=values.get(0.99),
        activation_max=values.get(1.0),
    )


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return text(None)
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} B"


def _name(row: CaptureRow) -> Cell:
    """The capture, its unit, and the numeric mode where it is not the usual one."""
    mode = row.numerics if row.numerics not in (None, "modules") else ""
    return tuple(filter(None, (row.source, f"unit {text(row.unit)}", mode)))


def _documents(row: CaptureRow) -> Cell:
    split = f"{count(row.n_split)} split" if row.n_split else ""
    return tuple(filter(None, (f"{count(row.n_tokens)} tokens", f"{count(row.n_documents)} documents", split)))


def _columns(row: CaptureRow) -> Cell:
    dead = f"{count(row.n_dead)} dead" if row.n_dead else ""
    return tuple(filter(None, (count(row.n_columns), f"{count(row.n_features)} features", dead)))


def _density(row: CaptureRow) -> Cell:
    if row.density_q50 is None:
        return text(None)
    return (percent(row.density_q50, 1), f"[{percent(row.density_q05, 1)}, {percent(row.density_q95, 1)}]")


def _activations(row: CaptureRow) -> Cell:
    if row.activation_max is None:
        return text(None)
    shares = (("50 %", row.activation_q50), ("90 %", row.activation_q90), ("99 %", row.activation_q99))
    return tuple(f"{share} ≤ {significant(v)}" for share, v in (*shares, ("all", row.activation_max)))


def _stored(row: CaptureRow) -> Cell:
    return (_size(row.n_bytes), f"{text(row.dtype)}{', sparse' if row.sparse else ''}")


REPORT = Report[CaptureRow](
    "captures",
    "Captures: activations over tokens",
    captures,
    (
        Column("capture", _name, "left"),
        Column("read at", lambda r: short(r.site), "left", wrap=True, ratio=1, leaves=2),
        Column("of", _documents),
        Column("columns", _columns),
        Column("density", _density),
        Column("|activation|", _activations, "left", leaves=3),
        Column("on disk", _stored, leaves=1),
    ),
    ("probe", "learn"),
    "captures",
    order=110,
    label=lambda r: r.source,
    legend=(
        "Density: share of ranked tokens (what was written: no template, special or first tokens) on which a feature "
        "is active, median and "
        "5th to 95th percentile over features. |activation|: quantiles over all tokens and columns, in the unit. A "
        "document longer than the model's context is split and counts once per part. Dead: active on no ranked token."
    ),
)
