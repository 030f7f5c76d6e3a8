"""The reports of ablations: components (figure 3), how they were measured, attention against MLP, group searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.reports import queries
from harness.reports.cells import Column, count, fixed, inline, percent, significant, text, with_interval
from harness.reports.heatmap import heatmap
from harness.reports.section import Block, Section

TOP_COMPONENTS = 12
"""Layers and components listed below the heat map; JSON and CSV have all."""


def _component_blocks(rows: Sequence[Any]) -> list[Block]:
    whole = {(r.component, r.mode, r.kl_nats): r for r in rows if r.scope not in ("layer", "component")}
    blocks = [Block("Switched off: the adapter, projections, blocks of layers", list(whole.values()))] if whole else []
    for scope in ("layer", "component"):
        own = sorted((r for r in rows if r.scope == scope), key=lambda r: -r.kl_nats)
        shown = own[:TOP_COMPONENTS]
        if own:
            blocks.append(Block(f"Switched off: single {scope}s, {len(shown)} of {len(own)}, largest first", shown))
    return blocks


def _marked(row: Any) -> str:
    """The KL and its interval; `~` an estimate, `<` below the null floor."""
    mark = "~" if row.method == "fisher" else "<" if row.below_floor else ""
    return mark + inline(row.kl_nats, row.kl_ci_low, row.kl_ci_high, significant)


def _segments(row: Any) -> str:
    return " ".join(significant(v, 2) for v in (row.kl_prompt_nats, row.kl_think_nats, row.kl_answer_nats))


def _compared(row: Any) -> tuple[str, ...]:
    if row.spearman is None:
        return (text(None),)
    audit = [f"audit {fixed(row.audit_spearman)} of {row.n_audit}"] if row.n_audit else []
    return (f"{fixed(row.spearman)} of {count(row.n_exact)}", *audit)


COMPONENTS = Section(
    "components",
    "Components switched off",
    queries.components,
    (
        Column("off", lambda r: r.component, "left"),
        Column("set to", lambda r: r.mode, "left"),
        Column("KL (nats)", _marked),
        Column("of adapter's", lambda r: percent(r.share_of_adapter_kl, 1)),
        Column("prompt think answer", _segments),
        Column("Fisher", lambda r: significant(r.fisher_nats, 2)),
        Column("CE rise", lambda r: significant(r.ce_change_nats, 2)),
        Column("comp.", lambda r: count(r.n_components)),
    ),
    ("ablate",),
    "components switched off",
    label=lambda r: r.scope,
    legend=(
        "KL(adapter || ablated) per token, of all tokens and by segment; 95 % intervals by bootstrap over documents. "
        "Shares do not add up. Fisher: the same, estimated to second order. CE rise: of the text's next token. "
        "~ estimated, not measured; < below the null floor (rounding noise)."
    ),
    blocks=_component_blocks,
    picture=heatmap,
    after=("totals", "sweep"),
)

TOTALS = Section(
    "totals",
    "Attention against MLP",
    queries.totals,
    (
        Column("block", lambda r: r.block, "left"),
        Column("set to", lambda r: r.mode, "left"),
        Column("components", lambda r: count(r.n_components)),
        Column("sum of single KLs", lambda r: inline(r.sum_nats, r.sum_ci_low, r.sum_ci_high, significant)),
        Column("share", lambda r: percent(r.share_of_sum, 1)),
        Column("off together", lambda r: inline(r.together_nats, r.together_ci_low, r.together_ci_high, significant)),
        Column("tokens", lambda r: count(r.n_tokens)),
        Column("documents", lambda r: count(r.n_documents)),
    ),
    ("ablate",),
    "components switched off",
    label=lambda r: r.block,
    legend=(
        "Nats per token, 95 % intervals by bootstrap over documents. The sum and the joint KL differ where components "
        "interact; the joint one is of the plugin groups, on documents of its own."
    ),
)

SWEEP = Section(
    "sweep",
    "How components were measured",
    queries.sweeps,
    (
        Column("step", lambda r: r.step, "left", wrap=True),
        Column("measured", lambda r: (f"{count(r.n_exact)} of {count(r.n_components)}", _why_measured(r))),
        Column("Spearman", _compared),
        Column("Fisher / exact", lambda r: with_interval(r.ratio_median, r.ratio_q10, r.ratio_q90, significant)),
        Column("draws", lambda r: count(r.n_draws)),
        Column("below floor", lambda r: (count(r.n_below_floor), f"floor {significant(r.null_floor_max_nats, 2)}")),
        Column("on", lambda r: (f"{count(r.n_tokens)} tokens", f"{count(r.n_documents)} documents"), "left"),
        Column("engine", lambda r: text(r.engine), "left", wrap=True),
    ),
    ("ablate",),
    "sweeps over components",
    label=lambda r: r.step,
    legend=(
        "Spearman: Fisher estimates against exact values, over all that were measured and over the random audit. "
        "Fisher / exact: median [10 %, 90 %]. Draws: documents times probes. Floor: the largest KL per token that one "
        "unit in the last place makes, entering a layer."
    ),
)

SEARCH = Section(
    "search",
    "Group search: which groups carry the adapter",
    queries.searches,
    (
        Column("method", lambda r: r.method, "left"),
        Column("place", lambda r: count(r.place)),
        Column("group", lambda r: r.group, "left"),
        Column("set to", lambda r: r.mode, "left"),
        Column("KL (nats)", lambda r: inline(r.kl_nats, r.kl_ci_low, r.kl_ci_high, significant)),
        Column("of adapter's", lambda r: percent(r.share_of_adapter_kl, 1)),
        Column("comp.", lambda r: count(r.n_components)),
        Column("documents", lambda r: count(r.n_documents)),
    ),
    ("ablate",),
    "group searches",
    label=lambda r: f"{r.method} {r.group}",
    legend=(
        "greedy: KL with the group off on top of those above it. shapley: the group's share of the adapter's KL, "
        "averaged over orders of switching off; shares add up. 95 % intervals by bootstrap over documents (and orders)."
    ),
)

ABLATIONS = (COMPONENTS, TOTALS, SWEEP, SEARCH)
"""In the order in which they are read."""


def _why_measured(row: Any) -> str:
    return f"top {row.n_top}, audit {row.n_audit}" if row.n_top or row.n_audit else "all"
