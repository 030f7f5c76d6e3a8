"""How components were measured: estimates against exact values, and noise floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import Cell, count, fixed, significant, text, with_interval
from harness.contract.report import Column, Report
from harness.records.base import Estimate
from harness.records.segments import HEADLINE, TokensOf
from harness.reports.common.ablations import ablation_scores, which_tokens


@dataclass(frozen=True)
class SweepRow:
    """One step's sweep over single components.

    `n_exact` were measured: all, or those whose Fisher estimates were largest (`n_top`) and a random audit of the
    others (`n_audit`). Spearman compares estimates with exact values, over all that were measured and over the audit
    alone; ratios are estimate over exact. `spearman_prompt` and `spearman_all` compare the exact KLs over `segment`
    with those over the prompt and over all tokens. `n_below_floor` cells lie below the KL that rounding noise makes.
    """

    step: str
    mode: str
    n_components: int
    n_exact: int
    n_top: int
    n_audit: int
    n_draws: int | None
    spearman: float | None
    spearman_reason: str | None
    audit_spearman: float | None
    audit_reason: str | None
    ratio_median: float | None
    ratio_q10: float | None
    ratio_q90: float | None
    n_below_floor: int | None
    null_floor_max_nats: float | None
    reason: str | None
    n_tokens: int
    n_documents: int
    engine: str | None
    spearman_prompt: float | None
    spearman_all: float | None
    segment: TokensOf


def sweeps(connection: Connection, run_id: int, segment: TokensOf = HEADLINE) -> list[SweepRow]:
    """Every step that switched off single components."""
    by_sweep: dict[tuple[str, str], list[Any]] = {}
    for r in ablation_scores(connection, run_id, ("component",), segment):
        by_sweep.setdefault((r.step, r.mode), []).append(r)
    return [
        _row(step, mode, scores, segment)
        for (step, mode), scores in by_sweep.items()
        if any(r.kl_nats is not None for r in scores)
    ]


def _row(step: str, mode: str, scores: Sequence[Any], segment: TokensOf) -> SweepRow:
    exact = [r for r in scores if r.method == "exact"]
    audit = [r for r in exact if r.chosen_as == "audit"]
    floors = [r for r in exact if r.null_floor_nats is not None]
    ratios = [r.fisher_nats / r.kl_nats for r in exact if r.fisher_nats is not None and r.kl_nats > 0]
    spearman, reason = _spearman(exact)
    if segment != HEADLINE:
        reason = "Fisher probes estimate the KL over the response"
    audited, audit_reason = _spearman(audit) if audit else (None, "every component was measured: there is no audit")
    low, middle, high = (float(q) for q in np.quantile(ratios, (0.1, 0.5, 0.9))) if ratios else (None, None, None)
    return SweepRow(
        step=step,
        mode=mode,
        n_components=len(scores),
        n_exact=len(exact),
        n_top=sum(r.chosen_as == "top" for r in exact),
        n_audit=len(audit),
        n_draws=next((r.n_draws for r in scores if r.n_draws is not None), None),
        spearman=spearman,
        spearman_reason=reason,
        audit_spearman=audited,
        audit_reason=audit_reason,
        ratio_median=middle,
        ratio_q10=low,
        ratio_q90=high,
        n_below_floor=sum(r.kl_nats < r.null_floor_nats for r in floors) if floors else None,
        null_floor_max_nats=max((r.null_floor_nats for r in floors), default=None),
        reason=None if floors else "no null floor was measured",
        n_tokens=scores[0].n_tokens,
        n_documents=scores[0].n_documents,
        engine=next((r.engine for r in exact), None),
        spearman_prompt=_spearman(exact, "kl_nats_prompt")[0],
        spearman_all=_spearman(exact, "kl_nats_all")[0],
        segment=segment,
    )


def _spearman(scores: Sequence[Any], other: str = "fisher_nats") -> tuple[float | None, str | None]:
    """Rank correlation of another number (the estimates) with the exact values, or why there is none."""
    pairs = [(getattr(r, other), r.kl_nats) for r in scores if getattr(r, other) is not None]
    if not pairs:
        return None, "no Fisher probes were run"
    correlation = stats.spearman([a for a, _ in pairs], [b for _, b in pairs])
    return (None, correlation.reason) if isinstance(correlation, stats.Undefined) else (correlation, None)


def _measured(row: SweepRow) -> Cell:
    why = f"top {row.n_top}, audit {row.n_audit}" if row.n_top or row.n_audit else "all"
    return (f"{count(row.n_exact)} of {count(row.n_components)}", why)


def _compared(row: SweepRow) -> Cell:
    ranks = [f"vs all {fixed(row.spearman_all)}"] if row.spearman_all is not None else []
    if row.spearman is None:
        return (text(None), *ranks)
    audit = [f"audit {fixed(row.audit_spearman)} of {row.n_audit}"] if row.n_audit else []
    return (f"{fixed(row.spearman)} of {count(row.n_exact)}", *audit, *ranks)


def _ratio(row: SweepRow) -> Cell:
    if row.ratio_median is None or row.ratio_q10 is None or row.ratio_q90 is None:
        return text(None)
    return with_interval(Estimate(row.ratio_median, row.ratio_q10, row.ratio_q90), significant)


REPORT = Report[SweepRow](
    "sweep",
    "How components were measured",
    sweeps,
    (
        Column("step", lambda r: r.step, "left", wrap=True),
        Column("measured", _measured),
        Column("Spearman", _compared),
        Column("Fisher / exact", _ratio),
        Column("draws", lambda r: count(r.n_draws), leaves=2),
        Column(
            "below floor",
            lambda r: (count(r.n_below_floor), f"floor {significant(r.null_floor_max_nats, 2)}"),
            leaves=3,
        ),
        Column("on", lambda r: (f"{count(r.n_tokens)} tokens", f"{count(r.n_documents)} documents"), "left"),
        Column("engine", lambda r: text(r.engine), "left", wrap=True, leaves=1),
    ),
    ("ablate",),
    "sweeps over components",
    order=90,
    label=lambda r: r.step,
    lead=which_tokens,
    by_segment=True,
    legend=(
        "Over the response's tokens (trace and answer) unless --segment says others. Spearman: Fisher estimates "
        "against exact values, over all that were measured and over the random audit; vs all: of the exact values "
        "against those over all tokens. Fisher / exact: median [10 %, 90 %]. Draws: documents times probes. Floor: the "
        "largest KL per token that one unit in the last place makes, entering a layer."
    ),
)
