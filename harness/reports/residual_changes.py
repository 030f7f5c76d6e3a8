"""How every layer's residual stream differs between the models."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from harness.contract.cells import ABSENT, Cell, percent, significant, with_interval
from harness.contract.report import Block, Column, Report
from harness.records import ResidualChange
from harness.reports.differences import quoted
from harness.store.read import records_of


def residual_changes(connection: Connection, run_id: int) -> list[ResidualChange]:
    """A row per pair and layer, from the first layer to the last."""
    return records_of(connection, ResidualChange, run_id=run_id)


def _shares(shares: Sequence[float]) -> str:
    return percent(shares[0]) if shares else ABSENT


def _against(value: float | None, null: float | None) -> Cell:
    return ABSENT if value is None else (percent(value, 1), f"null {percent(null, 1)}")


def _cosine(row: ResidualChange) -> Cell:
    cell = with_interval(row.cosine, significant)
    if isinstance(cell, str) or row.cosine_shuffled is None:
        return cell
    return (*cell, f"null {significant(row.cosine_shuffled.value)}")


def _tokens(row: ResidualChange) -> Cell:
    if not row.promoted:
        return ABSENT
    return ("+ " + " ".join(map(quoted, row.promoted[:4])), "- " + " ".join(map(quoted, row.suppressed[:4])))


def _norm(row: ResidualChange) -> Cell:
    cell = with_interval(row.relative_norm, significant)
    return (*cell, f"null {significant(row.relative_norm_shuffled.value)}")


def _blocks(rows: Sequence[ResidualChange]) -> list[Block[ResidualChange]]:
    pairs = dict.fromkeys(r.pair for r in rows)
    return [Block(f"Change of the residual stream, {p}", [r for r in rows if r.pair == p]) for p in pairs]


REPORT = Report[ResidualChange](
    "residual-changes",
    "Change of the residual stream",
    residual_changes,
    (
        Column("layer", lambda r: str(r.layer)),
        Column("size", _norm),
        Column("1st direction", lambda r: (_shares(r.shares), f"null {_shares(r.shares_shuffled)}"), leaves=3),
        Column("common", lambda r: _against(r.common_share, r.common_share_swapped), leaves=2),
        Column("first tokens", lambda r: _against(r.first_common_share, r.first_common_share_swapped)),
        Column("cosine", _cosine, leaves=1),
        Column("their mean says", _tokens, "left"),
    ),
    ("ablate",),
    "layers compared",
    order=105,
    label=lambda r: f"{r.pair} {r.layer}",
    blocks=_blocks,
    legend=(
        "Size: norm of the change of a layer's output over the norm of the second model's, over drawn response "
        "tokens; null: the first model's stream is that of another token of the document. 1st direction: share of the"
        " squared change in its first singular direction (not centred), and of those shuffled pairs. Common: squared "
        "norm of the mean change over the mean squared norm; null: its mean where a lot decides in each document "
        "which model is called the first. First tokens: the same on the first tokens of the question; promoted (+) "
        "and suppressed (-) are what their mean change says through final norm and output matrix, and mean little "
        "where it is no larger than its null. Cosine: with the change of adapter-base on the same token; null: on "
        "another token."
    ),
)
