"""What features write: tokens that they promote on paper and on real text, and which component reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.contract.cells import Cell, fixed, p_value, short, significant, text
from harness.contract.report import Block, Column, Report
from harness.reports.common.features import stored_features
from harness.reports.common.rows import cached_query, plan_order, row_from, run_steps
from harness.store.schema import WriteDirection

TOP_FEATURES = 10
"""Features listed per source, by summed activation; JSON and CSV have all."""
TOKENS = 5
"""Tokens listed on each side."""


@dataclass(frozen=True)
class WriteRow:
    """What a feature writes; the fields of the record, in lists as JSON."""

    source: str
    feature: str
    layer: int | None
    projection: str | None
    activation_sum: float | None
    write_norm: float
    share_of_module: float | None
    lens_share: float | None
    through: str | None
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]
    p_promoted: float | None
    p_suppressed: float | None
    effect_tokens: tuple[str, ...]
    effects_nats: tuple[float, ...]
    effects_half_width_nats: tuple[float, ...]
    effect_p: float | None
    n_tokens: int | None
    n_documents: int | None
    n_null: int | None
    read_by: tuple[str, ...]
    read_cosines: tuple[float, ...]
    read_p: float | None
    reason: str | None


@cached_query
def write_directions(connection: Connection, run_id: int) -> list[WriteRow]:
    """All features that were read, by summed activation within each source."""
    found = connection.execute(
        select(WriteDirection.__table__)
        .where(WriteDirection.step_id.in_(run_steps(run_id)))
        .order_by(*plan_order(run_id, WriteDirection))
    ).all()
    stored = stored_features(connection, run_id)
    rows = []
    for record in found:
        feature = stored.get((record.source, record.feature))
        lists: dict[str, Any] = {
            name: tuple(getattr(record, f"{name}_json") or ())
            for name in (
                "promoted",
                "suppressed",
                "effect_tokens",
                "effects_nats",
                "effects_half_width_nats",
                "read_by",
                "read_cosines",
            )
        }
        rows.append(row_from(WriteRow, record, activation_sum=feature.activation_sum if feature else None, **lists))
    order = {source: i for i, source in enumerate(dict.fromkeys(r.source for r in rows))}
    return sorted(rows, key=lambda r: (order[r.source], -(r.activation_sum or 0.0)))


def promoted_tokens(connection: Connection, run_id: int) -> dict[tuple[str, str], WriteRow]:
    """(source, feature) -> what it writes."""
    return {(row.source, row.feature): row for row in write_directions(connection, run_id)}


def _direct(row: WriteRow) -> str:
    return _quoted(row.promoted[:TOKENS]) if row.promoted else "no direct lens"


def _quoted(tokens: Sequence[str]) -> str:
    """Tokens in quotes; their spaces are signs, so that no line breaks within one."""
    return " ".join(repr(token).replace(" ", "␣") for token in tokens)


def promotes(row: WriteRow | None, n: int = TOKENS) -> str | None:
    """The tokens that a feature promotes, as one cell: by the lens; by the effect where it has none."""
    if row is None:
        return None
    if row.promoted:
        return _quoted(row.promoted[:n])
    return f"on text: {_quoted(row.effect_tokens[:n])}" if row.effect_tokens else row.reason


def _effect(row: WriteRow) -> Cell:
    if not row.effect_tokens:
        return text(None)
    halves = row.effects_half_width_nats
    return tuple(
        f"{_quoted(row.effect_tokens[i:][:1])} {significant(row.effects_nats[i], 2)}"
        + (f" ± {significant(halves[i], 2)}" if halves else "")
        for i in (0, -1)
    )


def _reader(row: WriteRow) -> str:
    return f"{row.read_by[0]} {fixed(row.read_cosines[0], 2)}" if row.read_by else text(None)


def _blocks(rows: Sequence[WriteRow]) -> list[Block[WriteRow]]:
    by_source: dict[str, list[WriteRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    return [
        Block(f"{source}: {min(len(r), TOP_FEATURES)} of {len(r)} features, by summed activation", r[:TOP_FEATURES])
        for source, r in by_source.items()
    ]


REPORT = Report[WriteRow](
    "write-directions",
    "What features write",
    write_directions,
    (
        Column("feature", lambda r: r.feature, "left"),
        Column("promotes", lambda r: short(_direct(r)), "left", wrap=True, ratio=3),
        Column("p", lambda r: p_value(r.p_promoted)),
        Column(
            "suppresses", lambda r: short(_quoted(r.suppressed[:3]) or None), "left", wrap=True, ratio=2,
            leaves=2,
        ),
        Column("raises and lowers on text (nats)", _effect, "left", wrap=True, ratio=2),
        Column("p ", lambda r: p_value(r.effect_p)),
        Column("read by (cosine)", _reader, "left", leaves=1),
        Column("p  ", lambda r: p_value(r.read_p), leaves=1),
    ),
    ("ablate",),
    "features",
    order=205,
    label=lambda r: f"{r.source} {r.feature}",
    legend=(
        "Promotes: tokens whose logits it raises most through final norm and output matrix alone; p: share of random "
        "directions of the same norm with ten tokens as strong. On text: derivative of a token's log-probability by "
        "the activation, mean over the response's tokens ± half of its 95 % interval over documents; p: the largest of "
        "the measured tokens against that of random directions. Read by: the later component whose a is most aligned; "
        "p: times the number of later readers. No p is corrected for the number of features. "
        "docs/write-directions.md says how each can mislead."
    ),
    blocks=_blocks,
)  # fmt: skip
