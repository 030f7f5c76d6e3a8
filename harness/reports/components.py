"""What switching parts of the adapter off does (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from rich.console import Group, RenderableType
from sqlalchemy import Connection

from harness.contract.cells import count, inline, percent, significant
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate, StoredAs
from harness.records.segments import HEADLINE, TokensOf
from harness.reports.common.ablations import ablation_scores, per_token, which_tokens
from harness.reports.common.heat import HeatMap, HeatRow
from harness.reports.common.rows import cached_query, row_from

SCOPES = ("adapter", "layer", "projection", "block", "component")
"""What a row can have switched off, in the order of the report."""

TOP_COMPONENTS = 12
"""Layers and components listed below the heat map; JSON and CSV have all."""

_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LAYER = "whole layer"
_FLOOR = "null floor"


@dataclass(frozen=True)
class ComponentRow:
    """Something switched off. KL(adapter ‖ ablated) in nats per token of `segment`, 95 % interval over documents.

    `scope` says what: the whole `adapter` (the scale), a `layer`, a `projection` in all layers, a `block` of layers, or
    one `component`. `projection` is null for whole layers. `group` is attention or mlp, of single components. `method`
    `fisher`: `kl_nats` is the probes' estimate. `below_floor`: smaller than what rounding noise makes at that layer.
    """

    scope: str
    layer: int | None
    projection: str | None
    component: str
    mode: str
    kl_nats: Estimate
    share_of_adapter_kl: float | None
    reason: str | None
    n_components: int
    n_tokens: int
    n_documents: int
    step: str
    group: Annotated[str | None, StoredAs("block")] = None
    method: str = "exact"
    chosen_as: str | None = None
    fisher_nats: Estimate | None = None
    n_draws: int | None = None
    null_floor_nats: float | None = None
    below_floor: bool | None = None
    ce_nats: float | None = None
    ce_change_nats: Estimate | None = None
    kl_nats_prompt: Estimate | None = None
    n_tokens_prompt: int | None = None
    kl_nats_trace: Estimate | None = None
    n_tokens_trace: int | None = None
    kl_nats_answer: Estimate | None = None
    n_tokens_answer: int | None = None
    kl_nats_all: Estimate | None = None
    n_tokens_all: int | None = None
    engine: str | None = None
    segment: TokensOf = HEADLINE


@cached_query
def components(connection: Connection, run_id: int, segment: TokensOf = HEADLINE) -> list[ComponentRow]:
    """Everything that was switched off, groups apart, the adapter first; as a share of the whole adapter's KL."""
    scores = [r for r in ablation_scores(connection, run_id, SCOPES, segment) if r.kl_nats is not None]
    whole = [r for r in scores if r.scope == "adapter"]
    if len(whole) == len(scores):
        return []
    by_step = {r.step: r.kl_nats for r in whole}
    newest = whole[-1].kl_nats if whole else None
    ranked = any(r.rank_index for r in scores)
    scores.sort(key=lambda r: (SCOPES.index(r.scope), r.mode, -1 if r.layer is None else r.layer))
    return [_row(r, by_step.get(r.step, newest), ranked, segment) for r in scores]


def _row(r: Any, adapter_kl: float | None, ranked: bool, segment: TokensOf) -> ComponentRow:
    reason = r.reason
    if adapter_kl is None:
        reason = "the KL of the whole adapter was not measured"
    elif not adapter_kl > 0:
        reason = "the whole adapter's KL is 0"
    return row_from(
        ComponentRow,
        r,
        component=_name(r, ranked),
        segment=segment,
        share_of_adapter_kl=r.kl_nats / adapter_kl if adapter_kl is not None and adapter_kl > 0 else None,
        reason=reason,
        group=r.group_name if r.scope == "component" else None,
        below_floor=r.kl_nats < r.null_floor_nats if r.null_floor_nats is not None and r.method == "exact" else None,
    )


def _name(r: Any, ranked: bool) -> str:
    """What is off, e.g. `L3.gate_proj` (`L3.gate_proj.r1` above rank 1), `L3`, `adapter`; a block goes by its item."""
    if r.scope == "adapter":
        return "adapter"
    if r.scope == "block":
        return str(r.group_name or r.item)
    parts = ([f"L{r.layer}"] if r.layer is not None else []) + ([r.projection] if r.projection else [])
    return ".".join(parts + ([f"r{r.rank_index}"] if ranked and r.rank_index is not None else [])) or str(r.item)


def _blocks(rows: Sequence[ComponentRow]) -> list[Block[ComponentRow]]:
    whole = {(r.component, r.mode, r.kl_nats.value): r for r in rows if r.scope not in ("layer", "component")}
    blocks = [Block("Switched off: the adapter, projections, blocks of layers", list(whole.values()))] if whole else []
    for scope in ("layer", "component"):
        ranked = sorted((r for r in rows if r.scope == scope), key=lambda r: -r.kl_nats.value)
        top = ranked[:TOP_COMPONENTS]
        if ranked:
            blocks.append(Block(f"Switched off: single {scope}s, {len(top)} of {len(ranked)}, largest first", top))
    return blocks


def _kl(row: ComponentRow) -> str:
    """The KL and its interval; `~` an estimate, `<` below the null floor."""
    mark = "~" if row.method == "fisher" else "<" if row.below_floor else ""
    return mark + inline(row.kl_nats, significant)


def _value(number: Estimate | None) -> str:
    return significant(number.value if number else None, 2)


def heatmap(rows: Sequence[ComponentRow]) -> RenderableType | None:
    """KL by projection and layer, a map per mode; None without single components."""
    maps = heat_maps(rows)
    return Group(*maps) if maps else None


def heat_maps(rows: Sequence[ComponentRow]) -> list[HeatMap]:
    """A map per mode, of those with single components."""
    return [found for mode in dict.fromkeys(r.mode for r in rows) if (found := _heat_map(rows, mode)) is not None]


def _heat_map(rows: Sequence[ComponentRow], mode: str) -> HeatMap | None:
    """One mode's map. Components of a rank above 1 are shown by their largest."""
    cells: dict[tuple[str, int], float] = {}
    floors: dict[int, float] = {}
    sliced = False
    for r in rows:
        if r.mode == mode and r.layer is not None and (r.scope == "component" or r.scope == "layer"):
            place = (str(r.projection) if r.scope == "component" else _LAYER, r.layer)
            sliced |= place in cells
            cells[place] = max(cells.get(place, r.kl_nats.value), r.kl_nats.value)
            if r.null_floor_nats is not None and r.method == "exact":
                floors[r.layer] = r.null_floor_nats
    names = sorted({name for name, _ in cells} - {_LAYER}, key=lambda n: (projection_rank(n), n))
    if not names:
        return None
    layers = tuple(sorted({layer for _, layer in cells}))

    def row(name: str) -> HeatRow:
        values = tuple(cells.get((name, layer)) for layer in layers)
        below = tuple(v is not None and v < floors.get(x, 0.0) for v, x in zip(values, layers, strict=True))
        return HeatRow(name, values, below, apart=name == _LAYER)

    whole = [row(_LAYER)] if any(name == _LAYER for name, _ in cells) else []
    floor = [HeatRow(_FLOOR, tuple(floors.get(x) for x in layers), plain=True)] if floors else []
    unit = per_token(next(r.segment for r in rows))
    of_slices = "; of each matrix's rank-one slices, the largest" if sliced else ""
    title = f"KL(adapter || ablated) in {unit}, by layer (set to {mode}{of_slices}"
    return HeatMap(title, layers, (*whole, *map(row, names), *floor))


def projection_rank(name: str) -> int:
    """Place of a projection in the paper's order (q, k, v, o, gate, up, down); others after these."""
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


REPORT = Report[ComponentRow](
    "components",
    "Components switched off",
    components,
    (
        Column("off", lambda r: r.component, "left"),
        Column("set to", lambda r: r.mode, "left"),
        Column("KL (nats)", _kl),
        Column("of adapter's", lambda r: percent(r.share_of_adapter_kl, 1)),
        Column("prompt", lambda r: _value(r.kl_nats_prompt), leaves=3),
        Column("all", lambda r: _value(r.kl_nats_all), leaves=2),
        Column("Fisher", lambda r: _value(r.fisher_nats), leaves=5),
        Column("CE rise", lambda r: _value(r.ce_change_nats), leaves=4),
        Column("comp.", lambda r: count(r.n_components), leaves=1),
    ),
    ("ablate",),
    "components switched off",
    order=70,
    label=lambda r: r.scope,
    legend=(
        "KL(adapter || ablated) per token of the response (trace and answer) unless --segment says others; beside it "
        "over the prompt and over all tokens. 95 % intervals by bootstrap-t over documents. Shares do not add up. "
        "Fisher: over the response, estimated to second order: its interval holds the documents' and the probes' "
        "spread, not what that order leaves out. CE rise: of the response's next token. "
        "~ estimated, not measured; < below the null floor (rounding noise)."
    ),
    blocks=_blocks,
    lead=which_tokens,
    by_segment=True,
    picture=heatmap,
    after=("totals", "sweep"),
)
