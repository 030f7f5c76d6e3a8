"""How ablations were measured: estimates against exact values, noise floors; what attention and MLP add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from harness import stats
from harness.reports.query_common import finite, own_steps, plan_order
from harness.store.schema import AblationScore, Step


@dataclass(frozen=True)
class SweepRow:
    """One step's sweep over single components.

    `n_exact` were measured: all, or those whose Fisher estimates were largest (`n_top`) and a random audit of the
    others (`n_audit`). Spearman compares estimates with exact values, over all that were measured and over the audit
    alone; ratios are estimate over exact. `n_below_floor` cells lie below the KL that rounding noise makes there.
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


@dataclass(frozen=True)
class TotalRow:
    """Attention against MLP: single ablations added up, and all of them off at once. Nats per token, 95 % intervals.

    They differ where components interact. `share_of_sum` is of the sums of all blocks.
    """

    block: str
    mode: str
    n_components: int
    sum_nats: float
    sum_ci_low: float | None
    sum_ci_high: float | None
    share_of_sum: float | None
    together_nats: float | None
    together_ci_low: float | None
    together_ci_high: float | None
    reason: str | None
    n_tokens: int
    n_documents: int


@dataclass(frozen=True)
class SearchRow:
    """A group in a group search. KL in nats per token, 95 % interval.

    `greedy`: the KL with this group off on top of those above it. `shapley`: the group's share of the whole adapter's
    KL, averaged over orders of switching off; the shares add up to it.
    """

    step: str
    method: str
    place: int | None
    group: str
    mode: str
    kl_nats: float
    kl_ci_low: float | None
    kl_ci_high: float | None
    share_of_adapter_kl: float | None
    n_components: int
    reason: str | None
    n_tokens: int
    n_documents: int


def sweeps(connection: Connection, run_id: int) -> list[SweepRow]:
    """Every step that switched off single components."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for r in _cells(connection, run_id, ("component",)):
        groups.setdefault((r.step, r.mode), []).append(r)
    return [_sweep_row(step, mode, own) for (step, mode), own in groups.items()]


def totals(connection: Connection, run_id: int) -> list[TotalRow]:
    """Attention, MLP and others, by the components that the last sweep of each mode switched off."""
    newest: dict[str, dict[str, list[Any]]] = {}
    for r in _cells(connection, run_id, ("component",)):
        newest.setdefault(r.mode, {}).setdefault(r.step, []).append(r)
    together = {(r.mode, r.group_name): r for r in _cells(connection, run_id, ("group",))}
    rows = []
    for mode, by_step in newest.items():
        own = list(by_step.values())[-1]
        blocks = [b for b in ("attention", "mlp", "other") if any(r.group_name == b for r in own)]
        whole = sum(r.kl_nats for r in own)
        for block in blocks:
            cells = [r for r in own if r.group_name == block]
            rows.append(_total_row(block, mode, cells, whole, together.get((mode, block))))
    return rows


def searches(connection: Connection, run_id: int) -> list[SearchRow]:
    """Group searches: greedy orders first, then Shapley shares, the largest first."""
    found = _cells(connection, run_id, ("greedy", "shapley"))
    whole: dict[tuple[str, str], float] = {}
    for r in found:
        if r.scope == "shapley":  # the shares add up to the whole adapter's KL, on the same documents
            whole[r.step, r.mode] = whole.get((r.step, r.mode), 0.0) + r.kl_nats
    ordered = sorted(found, key=lambda r: (r.step, r.mode, r.scope, r.place or 0, -r.kl_nats))
    rows = []
    for r in ordered:
        adapter = whole.get((r.step, r.mode))
        rows.append(
            SearchRow(
                step=r.step, method=r.scope, place=r.place, group=str(r.group_name), mode=r.mode, kl_nats=r.kl_nats,
                kl_ci_low=finite(r.kl_ci_low), kl_ci_high=finite(r.kl_ci_high),
                share_of_adapter_kl=r.kl_nats / adapter if adapter else None, n_components=r.n_components,
                reason=r.reason or (None if adapter else "the KL of the whole adapter is 0 or was not measured"),
                n_tokens=r.n_tokens, n_documents=r.n_documents,
            )
        )  # fmt: skip
    return rows


def _cells(connection: Connection, run_id: int, scopes: Sequence[str]) -> list[Any]:
    return list(
        connection.execute(
            select(AblationScore.__table__, Step.name.label("step"))
            .join(Step, Step.id == AblationScore.step_id)
            .where(AblationScore.step_id.in_(own_steps(run_id)), AblationScore.scope.in_(scopes))
            .order_by(*plan_order(run_id, AblationScore))
        ).all()
    )


def _sweep_row(step: str, mode: str, cells: Sequence[Any]) -> SweepRow:
    exact = [r for r in cells if r.method == "exact"]
    audit = [r for r in exact if r.chosen_as == "audit"]
    floors = [r for r in exact if r.null_floor_nats is not None]
    ratios = [r.fisher_nats / r.kl_nats for r in exact if r.fisher_nats is not None and r.kl_nats > 0]
    spearman, why = _spearman(exact)
    audited, audit_why = _spearman(audit) if audit else (None, "every component was measured: there is no audit")
    low, middle, high = (float(q) for q in np.quantile(ratios, (0.1, 0.5, 0.9))) if ratios else (None, None, None)
    return SweepRow(
        step=step,
        mode=mode,
        n_components=len(cells),
        n_exact=len(exact),
        n_top=sum(r.chosen_as == "top" for r in exact),
        n_audit=len(audit),
        n_draws=next((r.n_draws for r in cells if r.n_draws is not None), None),
        spearman=spearman,
        spearman_reason=why,
        audit_spearman=audited,
        audit_reason=audit_why,
        ratio_median=middle,
        ratio_q10=low,
        ratio_q90=high,
        n_below_floor=sum(r.kl_nats < r.null_floor_nats for r in floors) if floors else None,
        null_floor_max_nats=max((r.null_floor_nats for r in floors), default=None),
        reason=None if floors else "no null floor was measured",
        n_tokens=cells[0].n_tokens,
        n_documents=cells[0].n_documents,
        engine=next((r.engine for r in exact), None),
    )


def _spearman(cells: Sequence[Any]) -> tuple[float | None, str | None]:
    """Rank correlation of estimates and exact values, or why there is none."""
    both = [(r.fisher_nats, r.kl_nats) for r in cells if r.fisher_nats is not None]
    if not both:
        return None, "no Fisher probes were run"
    found = stats.spearman([a for a, _ in both], [b for _, b in both])
    return (None, found.reason) if isinstance(found, stats.Undefined) else (found, None)


def _total_row(block: str, mode: str, cells: Sequence[Any], whole: float, together: Any) -> TotalRow:
    total = sum(r.kl_nats for r in cells)
    reasons = []
    low = high = None
    if all(r.document_kl_nats_json for r in cells):
        n = np.array(cells[0].document_n_tokens_json, dtype=np.float64)
        sums = sum(np.array(r.document_kl_nats_json) for r in cells) * n
        interval = stats.ratio_over_documents(sums, n)
        low, high = finite(interval.low), finite(interval.high)
        if not interval.bounded:
            reasons.append("one document has no interval")
    else:
        reasons.append("some components were estimated, not measured: their sum has no interval over documents")
    if together is None:
        reasons.append("they were not switched off together (plugin groups)")
    return TotalRow(
        block=block,
        mode=mode,
        n_components=len(cells),
        sum_nats=total,
        sum_ci_low=low,
        sum_ci_high=high,
        share_of_sum=total / whole if whole > 0 else None,
        together_nats=together.kl_nats if together else None,
        together_ci_low=finite(together.kl_ci_low) if together else None,
        together_ci_high=finite(together.kl_ci_high) if together else None,
        reason="; ".join(reasons) or None,
        n_tokens=cells[0].n_tokens,
        n_documents=cells[0].n_documents,
    )
