"""The report on captures: what was read, in which unit, how dense and how large."""

from __future__ import annotations

from typing import Any

from harness.reports.cells import Cell, Column, count, percent, short, significant, text
from harness.reports.query_captures import captures
from harness.reports.section import Section


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return text(None)
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} B"


def _name(row: Any) -> Cell:
    """The capture, its unit, and the numeric mode where it is not the usual one."""
    mode = row.numerics if row.numerics not in (None, "modules") else ""
    return tuple(filter(None, (row.source, f"unit {text(row.unit)}", mode)))


def _documents(row: Any) -> Cell:
    split = f"{count(row.n_split)} split" if row.n_split else ""
    return tuple(filter(None, (f"{count(row.n_tokens)} tokens", f"{count(row.n_documents)} documents", split)))


def _columns(row: Any) -> Cell:
    dead = f"{count(row.n_dead)} dead" if row.n_dead else ""
    return tuple(filter(None, (count(row.n_columns), f"{count(row.n_features)} features", dead)))


def _density(row: Any) -> Cell:
    if row.density_q50 is None:
        return text(None)
    return (percent(row.density_q50, 1), f"[{percent(row.density_q05, 1)}, {percent(row.density_q95, 1)}]")


def _activations(row: Any) -> Cell:
    if row.activation_max is None:
        return text(None)
    shares = (("50 %", row.activation_q50), ("90 %", row.activation_q90), ("99 %", row.activation_q99))
    return tuple(f"{share} ≤ {significant(v)}" for share, v in (*shares, ("all", row.activation_max)))


def _stored(row: Any) -> Cell:
    return (_size(row.n_bytes), f"{text(row.dtype)}{', sparse' if row.sparse else ''}")


CAPTURES = Section(
    "captures",
    "Captures: activations over tokens",
    captures,
    (
        Column("capture", _name, "left"),
        Column("read at", lambda r: short(r.site), "left", wrap=True, ratio=1),
        Column("of", _documents),
        Column("columns", _columns),
        Column("density", _density),
        Column("|activation|", _activations, "left"),
        Column("on disk", _stored),
    ),
    ("probe", "learn"),
    "captures",
    label=lambda r: r.source,
    legend=(
        "Density: share of ranked tokens (no special tokens, no first tokens) on which a feature is active, median and "
        "5th to 95th percentile over features. |activation|: quantiles over all tokens and columns, in the unit. A "
        "document longer than the model's context is split and counts once per part. Dead: active on no ranked token."
    ),
)
