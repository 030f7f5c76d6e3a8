"""Attention against MLP: what single ablations add up to, and what switching all of them off together does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import count, inline, percent, significant
from harness.contract.report import Column, Report
from harness.records.base import Estimate, StoredAs
from harness.reports.common.ablations import ablation_scores
from harness.reports.common.rows import estimate


@dataclass(frozen=True)
class TotalRow:
    """Attention against MLP: single ablations added up, and all of them off at once. Nats per token, 95 % intervals.

    They differ where components interact. `share_of_sum` is of the sums of all groups.
    """

    group: Annotated[str, StoredAs("block")]
    mode: str
    n_components: int
    sum_nats: Estimate
    share_of_sum: float | None
    together_nats: Estimate | None
    reason: str | None
    n_tokens: int
    n_documents: int


def totals(connection: Connection, run_id: int) -> list[TotalRow]:
    """Attention, MLP and others, by the components that the last sweep of each mode switched off."""
    by_mode: dict[str, dict[str, list[Any]]] = {}
    for r in ablation_scores(connection, run_id, ("component",)):
        by_mode.setdefault(r.mode, {}).setdefault(r.step, []).append(r)
    together = {(r.mode, r.group_name): r for r in ablation_scores(connection, run_id, ("group",))}
    rows = []
    for mode, by_step in by_mode.items():
        newest = list(by_step.values())[-1]
        sum_of_all = sum(r.kl_nats for r in newest)
        for group in ("attention", "mlp", "other"):
            scores = [r for r in newest if r.group_name == group]
            if scores:
                rows.append(_row(group, mode, scores, sum_of_all, together.get((mode, group))))
    return rows


def _row(group: str, mode: str, scores: Sequence[Any], sum_of_all: float, together: Any) -> TotalRow:
    total = sum(r.kl_nats for r in scores)
    reasons = []
    low, high = -math.inf, math.inf
    if all(r.document_kl_nats_json for r in scores):
        n = np.array(scores[0].document_n_tokens_json, dtype=np.float64)
        sums = sum(np.array(r.document_kl_nats_json) for r in scores) * n
        pooled = stats.ratio_over_documents(sums, n)
        low, high = pooled.low, pooled.high
        if not pooled.bounded:
            reasons.append("one document has no interval")
    else:
        reasons.append("some components were estimated, not measured: their sum has no interval over documents")
    if together is None:
        reasons.append("they were not switched off together (plugin groups)")
    return TotalRow(
        group=group,
        mode=mode,
        n_components=len(scores),
        sum_nats=Estimate(total, low, high),
        share_of_sum=total / sum_of_all if sum_of_all > 0 else None,
        together_nats=estimate(together, "kl_nats"),
        reason="; ".join(reasons) or None,
        n_tokens=scores[0].n_tokens,
        n_documents=scores[0].n_documents,
    )


REPORT = Report[TotalRow](
    "totals",
    "Attention against MLP",
    totals,
    (
        Column("block", lambda r: r.group, "left"),
        Column("set to", lambda r: r.mode, "left"),
        Column("components", lambda r: count(r.n_components)),
        Column("sum of single KLs", lambda r: inline(r.sum_nats, significant)),
        Column("share", lambda r: percent(r.share_of_sum, 1)),
        Column("off together", lambda r: inline(r.together_nats, significant)),
        Column("tokens", lambda r: count(r.n_tokens)),
        Column("documents", lambda r: count(r.n_documents)),
    ),
    ("ablate",),
    "components switched off",
    order=80,
    label=lambda r: r.group,
    legend=(
        "Nats per token, 95 % intervals by bootstrap-t over documents. The sum and the joint KL differ where "
        "components interact; the joint one is of the plugin groups, on documents of its own."
    ),
)
