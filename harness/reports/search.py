"""Group searches: which groups of components carry the adapter."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from harness.contract.cells import count, inline, percent, significant
from harness.contract.report import Column, Report
from harness.records.base import Estimate
from harness.records.segments import HEADLINE, TokensOf
from harness.reports.common.ablations import ablation_scores, which_tokens
from harness.reports.common.rows import row_from


@dataclass(frozen=True)
class SearchRow:
    """A group in a group search. KL in nats per token of `segment`, 95 % interval.

    `greedy`: the KL with this group off on top of those above it. `shapley`: the group's share of the whole adapter's
    KL, averaged over orders of switching off; the shares add up to it.
    """

    step: str
    method: str
    place: int | None
    group: str
    mode: str
    kl_nats: Estimate
    share_of_adapter_kl: float | None
    n_components: int
    reason: str | None
    n_tokens: int
    n_documents: int
    kl_nats_prompt: Estimate | None = None
    kl_nats_all: Estimate | None = None
    segment: TokensOf = HEADLINE


def searches(connection: Connection, run_id: int, segment: TokensOf = HEADLINE) -> list[SearchRow]:
    """Group searches: greedy orders first, then Shapley shares, the largest first."""
    found = ablation_scores(connection, run_id, ("greedy", "shapley"), segment)
    scores = [r for r in found if r.kl_nats is not None]
    adapter_kl: dict[tuple[str, str], float] = {}
    for r in scores:
        if r.scope == "shapley":  # the shares add up to the whole adapter's KL, on the same documents
            adapter_kl[r.step, r.mode] = adapter_kl.get((r.step, r.mode), 0.0) + r.kl_nats
    scores.sort(key=lambda r: (r.step, r.mode, r.scope, r.place or 0, -r.kl_nats))
    rows = []
    for r in scores:
        whole = adapter_kl.get((r.step, r.mode))
        rows.append(
            row_from(
                SearchRow,
                r,
                method=r.scope,
                group=str(r.group_name),
                segment=segment,
                share_of_adapter_kl=r.kl_nats / whole if whole else None,
                reason=r.reason or (None if whole else "the KL of the whole adapter is 0 or was not measured"),
            )
        )
    return rows


REPORT = Report[SearchRow](
    "search",
    "Group search: which groups carry the adapter",
    searches,
    (
        Column("method", lambda r: r.method, "left"),
        Column("place", lambda r: count(r.place)),
        Column("group", lambda r: r.group, "left"),
        Column("set to", lambda r: r.mode, "left", leaves=2),
        Column("KL (nats)", lambda r: inline(r.kl_nats, significant)),
        Column("of adapter's", lambda r: percent(r.share_of_adapter_kl, 1)),
        Column("comp.", lambda r: count(r.n_components), leaves=3),
        Column("documents", lambda r: count(r.n_documents), leaves=1),
    ),
    ("ablate",),
    "group searches",
    order=100,
    label=lambda r: f"{r.method} {r.group}",
    lead=which_tokens,
    by_segment=True,
    legend=(
        "The greedy order goes by the response's tokens, whatever --segment says. greedy: KL with the group off on top "
        "of those above it. shapley: the group's share of the adapter's KL, "
        "averaged over orders of switching off; shares add up. 95 % intervals by bootstrap over documents (and orders)."
    ),
)
