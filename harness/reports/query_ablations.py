"""What switching parts off does (the paper's figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.reports.query_common import finite, once, own_steps, plan_order
from harness.store.schema import AblationScore, Step

SCOPES = ("adapter", "layer", "projection", "block", "component")
"""What a row can have switched off, in the order of the report."""


@dataclass(frozen=True)
class ComponentRow:
    """Something switched off. KL(adapter ‖ ablated) in nats per token, 95 % interval over documents.

    `scope` says what: the whole `adapter` (the scale), a `layer`, a `projection` in all layers, a `block` of layers, or
    one `component`. `projection` is null for whole layers. `block` is attention or mlp, of single components. `method`
    `fisher`: `kl_nats` is the probes' estimate. `below_floor`: smaller than what rounding noise makes at that layer.
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
    block: str | None = None
    method: str = "exact"
    chosen_as: str | None = None
    fisher_nats: float | None = None
    fisher_ci_low: float | None = None
    fisher_ci_high: float | None = None
    n_draws: int | None = None
    null_floor_nats: float | None = None
    below_floor: bool | None = None
    ce_nats: float | None = None
    ce_change_nats: float | None = None
    ce_change_ci_low: float | None = None
    ce_change_ci_high: float | None = None
    kl_prompt_nats: float | None = None
    kl_prompt_ci_low: float | None = None
    kl_prompt_ci_high: float | None = None
    n_tokens_prompt: int | None = None
    kl_think_nats: float | None = None
    kl_think_ci_low: float | None = None
    kl_think_ci_high: float | None = None
    n_tokens_think: int | None = None
    kl_answer_nats: float | None = None
    kl_answer_ci_low: float | None = None
    kl_answer_ci_high: float | None = None
    n_tokens_answer: int | None = None
    engine: str | None = None


_AS_STORED = (
    "method", "chosen_as", "fisher_nats", "fisher_ci_low", "fisher_ci_high", "n_draws", "null_floor_nats", "ce_nats",
    "ce_change_nats", "ce_change_ci_low", "ce_change_ci_high", "engine",
    *(f"{name}_{segment}" if name == "n_tokens" else f"kl_{segment}_{name}"
      for segment in ("prompt", "think", "answer") for name in ("nats", "ci_low", "ci_high", "n_tokens")),
)  # fmt: skip


@once
def components(connection: Connection, run_id: int) -> list[ComponentRow]:
    """Everything that was switched off, groups apart, the adapter first; as a share of the whole adapter's KL."""
    found = connection.execute(
        select(AblationScore.__table__, Step.name.label("step"))
        .join(Step, Step.id == AblationScore.step_id)
        .where(AblationScore.step_id.in_(own_steps(run_id)), AblationScore.scope.in_(SCOPES))
        .order_by(*plan_order(run_id, AblationScore))
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
    reason = r.reason
    share = None
    if adapter_kl is not None and adapter_kl > 0:
        share = r.kl_nats / adapter_kl
    elif adapter_kl is None:
        reason = "the KL of the whole adapter was not measured"
    else:
        reason = "the whole adapter's KL is 0"
    values = ((name, getattr(r, name)) for name in _AS_STORED)
    stored: dict[str, Any] = {name: finite(value) if isinstance(value, float) else value for name, value in values}
    return ComponentRow(
        scope=r.scope,
        layer=r.layer,
        projection=r.projection,
        component=_name(r, ranked),
        mode=r.mode,
        kl_nats=r.kl_nats,
        kl_ci_low=finite(r.kl_ci_low),
        kl_ci_high=finite(r.kl_ci_high),
        share_of_adapter_kl=share,
        reason=reason,
        n_components=r.n_components,
        n_tokens=r.n_tokens,
        n_documents=r.n_documents,
        step=r.step,
        block=r.group_name if r.scope == "component" else None,
        below_floor=r.kl_nats < r.null_floor_nats if r.null_floor_nats is not None and r.method == "exact" else None,
        **stored,
    )


def _name(r: Any, ranked: bool) -> str:
    """What is off, e.g. `L3.gate_proj` (`L3.gate_proj.r1` above rank 1), `L3`, `adapter`; a block goes by its item."""
    if r.scope == "adapter":
        return "adapter"
    if r.scope == "block":
        return str(r.group_name or r.item)
    parts = ([f"L{r.layer}"] if r.layer is not None else []) + ([r.projection] if r.projection else [])
    return ".".join(parts + ([f"r{r.rank_index}"] if ranked and r.rank_index is not None else [])) or str(r.item)
