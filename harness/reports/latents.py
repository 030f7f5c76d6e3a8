"""Latents switched off one by one: what each of them does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.contract.cells import count, inline, percent, short, significant
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate
from harness.reports.common.rows import row_from, run_steps
from harness.reports.dictionaries import dictionaries
from harness.store.schema import Explanation, Feature, LatentEffect

TOP_LATENTS = 16
"""Latents listed per dictionary; JSON and CSV have all."""


@dataclass(frozen=True)
class LatentRow:
    """A latent taken out of the adapter's scalars: KL(adapter ‖ adapter without it), nats per token of
    held-out responses.

    `density_per_token` and `activation_max` are of all documents, both polarities of a signed latent together (sum and
    maximum); `explanation` is the newest of either.
    """

    source: str
    latent: str
    kl_nats: Estimate
    share_of_adapter_kl: float | None
    density_per_token: float | None
    activation_max: float | None
    explanation: str | None
    grade: int | None
    n_active: int
    n_tokens: int
    n_documents: int
    reason: str | None
    kl_nats_prompt: Estimate | None = None
    n_tokens_prompt: int = 0
    kl_nats_all: Estimate | None = None
    n_tokens_all: int = 0


def latents(connection: Connection, run_id: int) -> list[LatentRow]:
    """The latents that were switched off, largest effect first within each dictionary."""
    adapter_kl = {r.name: r.kl_base_nats.value if r.kl_base_nats else None for r in dictionaries(connection, run_id)}
    features = _features_of_latents(connection, run_id)
    effects = connection.execute(
        select(LatentEffect.__table__)
        .where(LatentEffect.step_id.in_(run_steps(run_id)))
        .order_by(LatentEffect.source, LatentEffect.kl_nats.desc())
    )
    rows = []
    for r in effects:
        whole = adapter_kl.get(r.source)
        polarities = features.get((r.source, r.latent), [])
        explained = next((f for f in polarities if f.explanation), None)
        density = {f.feature: f.density_per_token for f in polarities}
        rows.append(
            row_from(
                LatentRow,
                r,
                share_of_adapter_kl=r.kl_nats / whole if whole else None,
                density_per_token=sum(density.values()) if density else None,
                activation_max=max((f.activation_max for f in polarities), default=None),
                explanation=explained.explanation if explained else None,
                grade=explained.grade if explained else None,
                reason=None if whole else "the whole adapter's KL was not measured, or is 0",
            )
        )
    order = {name: i for i, name in enumerate(adapter_kl)}
    return sorted(rows, key=lambda row: order.get(row.source, len(order)))


def _features_of_latents(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Any]]:
    """(dictionary, latent) -> its features with their explanations, newest first. `latent3+` is of `latent3`."""
    f, e, steps = Feature, Explanation, run_steps(run_id)
    of_feature = (e.source == f.source) & (e.feature == f.feature) & e.step_id.in_(steps)
    rows = connection.execute(
        select(f.source, f.feature, f.density_per_token, f.activation_max, e.explanation, e.grade)
        .select_from(f)
        .outerjoin(e, of_feature)
        .where(f.step_id.in_(steps))
        .where(f.source.in_(select(LatentEffect.source).where(LatentEffect.step_id.in_(steps))))
        .order_by(e.id.desc())
    )
    by_latent: dict[tuple[str, str], list[Any]] = {}
    for r in rows:
        by_latent.setdefault((r.source, r.feature.rstrip("+-")), []).append(r)
    return by_latent


def _blocks(rows: Sequence[LatentRow]) -> list[Block[LatentRow]]:
    groups: dict[str, list[LatentRow]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    return [
        Block(f"{source}: {len(group[:TOP_LATENTS])} of {len(group)} latents switched off, largest effect first",
              group[:TOP_LATENTS])
        for source, group in groups.items()
    ]  # fmt: skip


REPORT = Report[LatentRow](
    "latents",
    "Latents switched off one by one",
    latents,
    (
        Column("latent", lambda r: r.latent, "left"),
        Column("KL (nats)", lambda r: inline(r.kl_nats, significant)),
        Column("prompt", lambda r: significant(r.kl_nats_prompt.value if r.kl_nats_prompt else None, 2), leaves=3),
        Column("all", lambda r: significant(r.kl_nats_all.value if r.kl_nats_all else None, 2), leaves=2),
        Column("of adapter's", lambda r: percent(r.share_of_adapter_kl, 1)),
        Column("density", lambda r: percent(r.density_per_token, 1), leaves=4),
        Column("explanation", lambda r: short(r.explanation, 60), "left", wrap=True, ratio=1),
        Column("active on", lambda r: f"{count(r.n_active)} of {count(r.n_tokens)} tokens", leaves=1),
    ),
    ("judge",),
    "latents switched off",
    order=130,
    label=lambda r: r.source,
    legend=(
        "The latent's contribution is taken out of the adapter's scalars; what the dictionary does not explain stays. "
        "KL(adapter || adapter without it) per token of held-out responses (trace and answer); prompt, "
        "all: over those tokens. 95 % intervals by bootstrap-t over documents."
    ),
    blocks=_blocks,
)
