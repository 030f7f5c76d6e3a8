"""Benchmarks of several adapters on one base: each pair, tested by item, with what each recovers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from harness.contract.cells import Cell, count, fixed, flagged, inline, nats, percent, text
from harness.contract.report import Column, Report
from harness.records.base import Estimate
from harness.records.evaluate import Unit
from harness.reports.adapters import several
from harness.reports.common.benchmarks import ItemScores, item_scores, paired_scores, share_of_gap
from harness.reports.common.families import holm_where_tested, with_holm
from harness.reports.recovery import GAP
from harness.reports.steps import steps


@dataclass(frozen=True)
class AdapterScoreRow:
    """Two adapters on one benchmark, on the items that base, both, and the full fine-tune share. `p_holm` is after Holm
    over all pairs and benchmarks."""

    benchmark: str
    metric: str | None
    first: str
    second: str
    n_items: int
    first_score: Estimate | None
    second_score: Estimate | None
    first_recovery: Estimate | None
    second_recovery: Estimate | None
    p_value: float | None
    p_holm: float | None
    reason: str | None
    note: str | None
    engines_differ: bool
    unit: Unit


def adapter_scores(connection: Connection, run_id: int) -> list[AdapterScoreRow]:
    """A row per benchmark and pair of adapters; none for a study of one."""
    if not several(connection, run_id):
        return []
    evaluated = [s.step.partition("/")[2] for s in steps(connection, run_id) if s.kind == "evaluate"]
    names = [name for name in evaluated if name not in ("base", "full")]
    scores = item_scores(connection, run_id, ("base", "full", *names))
    rows = [
        _row(benchmark, pair, variants)
        for benchmark, variants in scores.items()
        for pair in itertools.combinations([n for n in names if n in variants], 2)
    ]
    adjusted = holm_where_tested([r.p_value for r in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _row(benchmark: str, pair: tuple[str, str], variants: dict[str, ItemScores]) -> AdapterScoreRow:
    first, second = pair
    paired = paired_scores({v: variants[v] for v in ("base", first, second, "full") if v in variants})
    (one, reason), (two, other) = (share_of_gap(paired, ("base", name, "full"), GAP) for name in pair)
    return AdapterScoreRow(
        benchmark=benchmark,
        metric=variants[first].metric,
        first=first,
        second=second,
        n_items=paired.n_items,
        first_score=paired.mean(first),
        second_score=paired.mean(second),
        first_recovery=one,
        second_recovery=two,
        p_value=paired.p_value(first, second),
        p_holm=None,
        reason=reason or other,
        note=paired.note,
        engines_differ=paired.engines_differ,
        unit=paired.unit,
    )


def _form(row: AdapterScoreRow) -> Callable[[float | None], str]:
    return nats if row.unit == "nats" else fixed


def _both(first: Estimate | None, second: Estimate | None, form: Callable[[float | None], str]) -> Cell:
    return (inline(first, form), inline(second, form))


REPORT = Report[AdapterScoreRow](
    "adapter-scores",
    "Benchmarks of the adapters, in pairs",
    adapter_scores,
    (
        Column("benchmark", lambda r: (r.benchmark, text(r.metric)), "left", wrap=True),
        Column("adapters", lambda r: (r.first, r.second), "left"),
        Column("n", lambda r: count(r.n_items)),
        Column("score", lambda r: flagged(_both(r.first_score, r.second_score, _form(r)), r.engines_differ)),
        Column("recovery", lambda r: _both(r.first_recovery, r.second_recovery, percent)),
        Column("p, Holm", lambda r: with_holm(r.p_value, r.p_holm)),
    ),
    ("evaluate", "compare"),
    "evaluations of two adapters",
    order=36,
    label=lambda r: f"{r.benchmark} {r.first} {r.second}",
    legend=(
        "Recovery = (adapter - base) / (full - base), paired by item. 95 % intervals: Wilson for scores, Fieller for "
        "recovery. p: exact McNemar test of the two adapters (of losses the paired t-test); below it after Holm over "
        "all pairs and benchmarks."
    ),
    unasked=several,
)
