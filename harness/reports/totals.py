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
from harness.records.segments import HEADLINE, TokensOf, field_of
from harness.reports.common.ablations import ablation_scores, document_sums, which_tokens
from harness.reports.common.rows import estimate


@dataclass(frozen=True)
class TotalRow:
    """Attention against MLP: single ablations added up, and all of them off at once. Nats per token of
    `segment`, 95 % intervals.

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
    sum_nats_prompt: Estimate | None
    sum_nats_all: Estimate | None
    together_nats_prompt: Estimate | None
    together_nats_all: Estimate | None
    segment: TokensOf


def totals(connection: Connection, run_id: int, segment: TokensOf = HEADLINE) -> list[TotalRow]:
    """Attention, MLP and others, by the components that the last sweep of each mode switched off."""
    by_mode: dict[str, dict[str, list[Any]]] = {}
    for r in ablation_scores(connection, run_id, ("component",), segment):
        if r.kl_nats is not None:
            by_mode.setdefault(r.mode, {}).setdefault(r.step, []).append(r)
    together = {(r.mode, r.group_name): r for r in ablation_scores(connection, run_id, ("group",), segment)}
    rows = []
    for mode, by_step in by_mode.items():
        newest = list(by_step.values())[-1]
        sum_of_all = sum(r.kl_nats for r in newest)
        for group in ("attention", "mlp", "other"):
            scores = [r for r in newest if r.group_name == group]
            if scores:
                rows.append(_row(group, mode, scores, sum_of_all, together.get((mode, group)), segment))
    return rows


def _row(group: str, mode: str, scores: Sequence[Any], sum_of_all: float, together: Any, segment: TokensOf) -> TotalRow:
    total = _sum(scores, "kl_nats", segment)
    reasons = []
    if not all(r.document_kl_sums_json for r in scores):
        reasons.append("some components were estimated, not measured: their sum has no interval over documents")
    elif not total.bounded:
        reasons.append("one document has no interval")
    if together is None:
        reasons.append("they were not switched off together (plugin groups)")
    return TotalRow(
        group=group,
        mode=mode,
        n_components=len(scores),
        sum_nats=total,
        share_of_sum=total.value / sum_of_all if sum_of_all > 0 else None,
        together_nats=estimate(together, "kl_nats"),
        reason="; ".join(reasons) or None,
        n_tokens=scores[0].n_tokens,
        n_documents=scores[0].n_documents,
        sum_nats_prompt=_sum_beside(scores, "prompt"),
        sum_nats_all=_sum_beside(scores, "all"),
        together_nats_prompt=estimate(together, "kl_nats_prompt"),
        together_nats_all=estimate(together, "kl_nats_all"),
        segment=segment,
    )


def _sum(scores: Sequence[Any], field: str, segment: TokensOf) -> Estimate:
    """KLs of a segment added up, with an interval over documents where those of each are stored."""
    total = sum(getattr(r, field) for r in scores)
    of_documents = [document_sums(r, segment) for r in scores]
    measured = [kl_and_n for kl_and_n in of_documents if kl_and_n is not None]
    if len(measured) < len(scores):
        return Estimate(total, -math.inf, math.inf)
    pooled = stats.ratio_over_documents(np.sum([kl for kl, _ in measured], axis=0), measured[0][1])
    return Estimate(total, pooled.low, pooled.high)


def _sum_beside(scores: Sequence[Any], segment: TokensOf) -> Estimate | None:
    """The sum over other tokens; None where one of the components has none."""
    field = field_of("kl_nats", segment)
    return _sum(scores, field, segment) if all(getattr(r, field) is not None for r in scores) else None


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
        Column("prompt", lambda r: significant(r.sum_nats_prompt.value if r.sum_nats_prompt else None, 2), leaves=2),
        Column("all", lambda r: significant(r.sum_nats_all.value if r.sum_nats_all else None, 2), leaves=1),
        Column("tokens", lambda r: count(r.n_tokens), leaves=3),
        Column("documents", lambda r: count(r.n_documents), leaves=4),
    ),
    ("ablate",),
    "components switched off",
    order=80,
    label=lambda r: r.group,
    lead=which_tokens,
    by_segment=True,
    legend=(
        "Nats per token of the response (trace and answer) unless --segment says others; prompt, all: the sums over "
        "those. 95 % intervals by bootstrap-t over documents. The sum and the joint KL differ where components "
        "interact; the joint one is of the plugin groups, on documents of its own."
    ),
)
