"""How good the dictionaries are, and what their most active latents do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.reports.query_common import finite, own_steps, plan_order
from harness.store.schema import Dictionary, DictionaryScore, Explanation, Feature, LatentEffect


@dataclass(frozen=True)
class DictionaryRow:
    """One dictionary on held-out documents. FVU is the share of variance unexplained; KLs are nats per token.

    `frontier`: no dictionary of the run is both sparser and closer. `density_histogram` counts alive latents per half
    decade of active tokens per token, from 1e-6 to 1, lowest first.
    """

    name: str
    k: float
    n_latents: int
    n_alive: int
    signed: bool
    fvu: float
    fvu_ci_low: float | None
    fvu_ci_high: float | None
    l0: float
    l0_ci_low: float | None
    l0_ci_high: float | None
    frontier: bool
    kl_splice_nats: float | None
    kl_splice_ci_low: float | None
    kl_splice_ci_high: float | None
    kl_base_nats: float | None
    kl_base_ci_low: float | None
    kl_base_ci_high: float | None
    kl_recovered: float | None
    kl_recovered_ci_low: float | None
    kl_recovered_ci_high: float | None
    stability: float | None
    stability_ci_low: float | None
    stability_ci_high: float | None
    n_matched: int
    density_histogram: str | None
    n_tokens_alive: int
    n_tokens: int
    n_documents: int
    n_splice_documents: int
    reason: str | None


@dataclass(frozen=True)
class FittedRow:
    """A fitted dictionary and where it is."""

    name: str
    n_latents: int
    n_columns: int
    k: float
    signed: bool
    path: str


@dataclass(frozen=True)
class LatentRow:
    """A latent taken out of the adapter's scalars: KL(adapter ‖ adapter without it), nats per held-out token.

    `density_per_token` and `activation_max` are of all documents, both polarities of a signed latent together (sum and
    maximum); `explanation` is the newest of either.
    """

    source: str
    latent: str
    kl_nats: float
    kl_ci_low: float | None
    kl_ci_high: float | None
    share_of_adapter_kl: float | None
    density_per_token: float | None
    activation_max: float | None
    explanation: str | None
    grade: int | None
    n_active: int
    n_tokens: int
    n_documents: int
    reason: str | None


def dictionaries(connection: Connection, run_id: int) -> list[DictionaryRow]:
    """Every dictionary's scores, in the order in which they were stored."""
    found = connection.execute(
        select(DictionaryScore.__table__)
        .where(DictionaryScore.step_id.in_(own_steps(run_id)))
        .order_by(*plan_order(run_id, DictionaryScore))
    ).all()
    measured = [name for name in DictionaryRow.__dataclass_fields__ if name not in ("frontier", "density_histogram")]
    rows = []
    for r in found:
        values: dict[str, Any] = {name: getattr(r, name) for name in measured}
        values |= {name: finite(value) for name, value in values.items() if name.endswith(("_ci_low", "_ci_high"))}
        values["frontier"] = not any(_dominates(other, r) for other in found)
        values["density_histogram"] = " ".join(map(str, r.density_histogram_json or [])) or None
        rows.append(DictionaryRow(**values))
    return rows


def fitted_dictionaries(connection: Connection, run_id: int) -> list[FittedRow]:
    """The run's dictionaries, in the order in which they were fitted."""
    found = connection.execute(
        select(Dictionary.__table__)
        .where(Dictionary.step_id.in_(own_steps(run_id)))
        .order_by(*plan_order(run_id, Dictionary))
    )
    return [FittedRow(r.name, r.n_latents, len(r.columns_json), r.k, r.signed, r.path) for r in found]


def latents(connection: Connection, run_id: int) -> list[LatentRow]:
    """The latents that were switched off, largest effect first within each dictionary."""
    base = {r.name: r.kl_base_nats for r in dictionaries(connection, run_id)}
    about = _about(connection, run_id)
    rows = []
    for r in connection.execute(
        select(LatentEffect.__table__)
        .where(LatentEffect.step_id.in_(own_steps(run_id)))
        .order_by(LatentEffect.source, LatentEffect.kl_nats.desc())
    ):
        scale = base.get(r.source)
        known = about.get((r.source, r.latent), [])
        explained = next((a for a in known if a.explanation), None)
        rows.append(
            LatentRow(
                source=r.source,
                latent=r.latent,
                kl_nats=r.kl_nats,
                kl_ci_low=finite(r.kl_ci_low),
                kl_ci_high=finite(r.kl_ci_high),
                share_of_adapter_kl=r.kl_nats / scale if scale else None,
                density_per_token=sum({a.feature: a.density_per_token for a in known}.values()) if known else None,
                activation_max=max((a.activation_max for a in known), default=None),
                explanation=explained.explanation if explained else None,
                grade=explained.grade if explained else None,
                n_active=r.n_active,
                n_tokens=r.n_tokens,
                n_documents=r.n_documents,
                reason=None if scale else "the whole adapter's KL was not measured, or is 0",
            )
        )
    order = {name: i for i, name in enumerate(base)}
    return sorted(rows, key=lambda row: order.get(row.source, len(order)))


def _dominates(a: Any, b: Any) -> bool:
    """Whether a is as sparse and as exact as b, and better in one of them."""
    return bool(a.l0 <= b.l0 and a.fvu <= b.fvu and (a.l0 < b.l0 or a.fvu < b.fvu))


def _about(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Any]]:
    """(dictionary, latent) -> its features with their explanations, newest first. `latent3+` is of `latent3`."""
    rows = connection.execute(
        select(
            Feature.source, Feature.feature, Feature.density_per_token, Feature.activation_max,
            Explanation.explanation, Explanation.grade,
        )
        .select_from(Feature)
        .outerjoin(
            Explanation,
            (Explanation.source == Feature.source)
            & (Explanation.feature == Feature.feature)
            & Explanation.step_id.in_(own_steps(run_id)),
        )
        .where(Feature.step_id.in_(own_steps(run_id)))
        .where(Feature.source.in_(select(LatentEffect.source).where(LatentEffect.step_id.in_(own_steps(run_id)))))
        .order_by(Explanation.id.desc())
    )  # fmt: skip
    found: dict[tuple[str, str], list[Any]] = {}
    for r in rows:
        found.setdefault((r.source, r.feature.rstrip("+-")), []).append(r)
    return found
