"""Which kinds of tokens carry the KL between adapter, full fine-tune and base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from harness.contract.cells import count, inline, percent, significant
from harness.contract.report import Block, Column, Report
from harness.records import Estimate, KindDivergence
from harness.reports.common.families import holm_where_tested, with_holm
from harness.store.read import records_of


@dataclass(frozen=True)
class KindRow:
    """A kind of token and the KL that follows it. `p_holm`: the p-value after Holm over the pair's kinds."""

    pair: str
    family: str
    kind: str
    n_kind: int
    n_tokens: int
    token_share: float
    kl_share: float | None
    ratio: Estimate | None
    p_value: float | None
    p_holm: float | None
    reason: str | None


def divergent_kinds(connection: Connection, run_id: int) -> list[KindRow]:
    """Kinds of each pair, the largest share of the KL first."""
    records = records_of(connection, KindDivergence, run_id=run_id)
    rows: list[KindRow] = []
    for pair in dict.fromkeys(r.pair for r in records):
        kinds = sorted((r for r in records if r.pair == pair), key=lambda r: -(r.kl_share or 0.0))
        for r, p in zip(kinds, holm_where_tested([r.p_value for r in kinds]), strict=True):
            token_share = r.n_kind / r.n_tokens if r.n_tokens else 0.0
            rows.append(
                KindRow(
                    r.pair, r.family, r.kind, r.n_kind, r.n_tokens, token_share, r.kl_share, r.ratio, r.p_value, p,
                    r.reason,
                )
            )  # fmt: skip
    return rows


def _blocks(rows: Sequence[KindRow]) -> list[Block[KindRow]]:
    pairs = dict.fromkeys(r.pair for r in rows)
    return [Block(f"Kinds of tokens that carry the KL of {p}", [r for r in rows if r.pair == p and r.ratio])
            for p in pairs]  # fmt: skip


REPORT = Report[KindRow](
    "divergent-kinds",
    "Kinds of tokens that carry the KL",
    divergent_kinds,
    (
        Column("kind", lambda r: r.family, "left", leaves=1),
        Column("tokens", lambda r: r.kind, "left"),
        Column("n", lambda r: count(r.n_kind)),
        Column("of tokens", lambda r: percent(r.token_share, 1), leaves=2),
        Column("of KL", lambda r: percent(r.kl_share, 1)),
        Column("KL against others", lambda r: inline(r.ratio, significant)),
        Column("p, Holm", lambda r: with_holm(r.p_value, r.p_holm)),
    ),
    ("ablate",),
    "kinds of tokens held against the KL",
    order=104,
    blocks=_blocks,
    legend=(
        "The KL is of the distribution that follows such tokens. Against others: mean KL after them over the mean "
        "after all other tokens of the response (segments: of all that is measured), 1 if the kind says nothing; 95 %"
        " interval and Student's t of the logarithm over documents; below p after Holm over the pair's kinds. Kinds "
        "overlap, and those in fewer than four documents are left out here (JSON and CSV have them with the reason)."
    ),
)
