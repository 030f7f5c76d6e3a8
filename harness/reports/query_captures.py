"""What was captured: how much, in which unit, how dense, how large."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, select

from harness.reports.query_common import own_steps, plan_order
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
    a = ActivationSet
    found = connection.execute(
        select(a.__table__).where(a.step_id.in_(own_steps(run_id))).order_by(*plan_order(run_id, a))
    ).all()
    density: dict[tuple[int, str], list[float]] = defaultdict(list)
    f = Feature
    for row in connection.execute(
        select(f.step_id, f.source, f.density_per_token).where(f.step_id.in_(own_steps(run_id)))
    ):
        density[row.step_id, row.source].append(row.density_per_token)
    return [_row(s, density[s.step_id, s.source]) for s in found]


def _row(s: object, density: list[float]) -> CaptureRow:
    q05, q50, q95 = np.quantile(density, _SHARES).tolist() if density else (None, None, None)
    values = {float(share): float(value) for share, value in getattr(s, "quantiles_json", None) or []}
    names = (
        "source", "site", "unit", "numerics", "dtype", "sparse", "n_documents", "n_split", "n_tokens", "n_columns",
        "n_bytes", "path",
    )  # fmt: skip
    return CaptureRow(
        **{name: getattr(s, name) for name in names},
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
