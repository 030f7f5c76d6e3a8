"""What switching parts off does (the paper's figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.results.query_common import finite, own_steps
from harness.results.tables import Step
from harness.results.tables_ablations import AblationScore

SCOPES = ("adapter", "layer", "projection", "block", "component")
"""What a row can have switched off, in the order of the report."""


@dataclass(frozen=True)
class ComponentRow:
    """Something switched off. KL(adapter ‖ ablated) in nats per token, 95 % interval over documents.

    `scope` says what: the whole `adapter` (the scale), a `layer`, a `projection` in all layers, a `block` of layers, or
    one `component`. `projection` is null for whole layers.
    """

    scope: str
    layer: int | None
    projection: str | None
    component: str
    mode: str
    kl_nats: float
    kl_ci_low: float | None
    kl_ci_high: float | None
    share_of_adapter_kl: float | None
    reason: str | None
    n_components: int
    n_tokens: int
    n_documents: int
    step: str


def components(connection: Connection, run_id: int) -> list[ComponentRow]:
    """Everything that was switched off, groups apart, the adapter first; as a share of the whole adapter's KL."""
    found = connection.execute(
        select(AblationScore.__table__, Step.name.label("step"))
        .join(Step, Step.id == AblationScore.step_id)
        .where(AblationScore.step_id.in_(own_steps(run_id)), AblationScore.scope.in_(SCOPES))
        .order_by(AblationScore.id)
    ).all()
    if all(r.scope == "adapter" for r in found):
        return []
    whole = [r for r in found if r.scope == "adapter"]
    by_step = {r.step: r.kl_nats for r in whole}
    anyone = whole[-1].kl_nats if whole else None
    ranked = any(r.rank_index for r in found)
    found = sorted(found, key=lambda r: (SCOPES.index(r.scope), r.mode, -1 if r.layer is None else r.layer))
    return [_component_row(r, by_step.get(r.step, anyone), ranked) for r in found]


def _component_row(r: Any, adapter_kl: float | None, ranked: bool) -> ComponentRow:
    reason = None
    if adapter_kl is None:
        reason = "the KL of the whole adapter was not measured"
    elif adapter_kl <= 0:
        reason = "the whole adapter's KL is 0"
    return ComponentRow(
        scope=r.scope,
        layer=r.layer,
        projection=r.projection,
        component=_name(r, ranked),
        mode=r.mode,
        kl_nats=r.kl_nats,
        kl_ci_low=finite(r.kl_ci_low),
        kl_ci_high=finite(r.kl_ci_high),
        share_of_adapter_kl=r.kl_nats / adapter_kl if adapter_kl and reason is None else None,
        reason=reason,
        n_components=r.n_components,
        n_tokens=r.n_tokens,
        n_documents=r.n_documents,
        step=r.step,
    )


def _name(r: Any, ranked: bool) -> str:
    """What is off, e.g. `L3.gate_proj` (`L3.gate_proj.r1` above rank 1), `L3`, `adapter`; a block goes by its item."""
    if r.scope == "adapter":
        return "adapter"
    if r.scope == "block":
        return str(r.group_name or r.item)
    parts = ([f"L{r.layer}"] if r.layer is not None else []) + ([r.projection] if r.projection else [])
    return ".".join(parts + ([f"r{r.rank_index}"] if ranked and r.rank_index is not None else [])) or str(r.item)
