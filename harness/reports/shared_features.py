"""Components of one adapter with their best partner in another."""

from __future__ import annotations

from sqlalchemy import Connection

from harness.contract.cells import ABSENT, count, fixed, p_value, text
from harness.contract.report import Block, Column, Report
from harness.records import SharedFeature
from harness.reports.adapters import several
from harness.store.read import records_of

SHOWN = 8
"""Components of a pair that people see."""


def shared_features(connection: Connection, run_id: int) -> list[SharedFeature]:
    """A row per pair of adapters, in both directions, and component of the first."""
    return records_of(connection, SharedFeature, run_id=run_id)


def _blocks(rows: list[SharedFeature]) -> list[Block[SharedFeature]]:
    blocks = []
    for first, second in dict.fromkeys((r.first, r.second) for r in rows):
        pair = [r for r in rows if (r.first, r.second) == (first, second)]
        best = sorted(pair, key=lambda r: -abs(r.correlation or 0.0))[:SHOWN]
        title = f"Components of {first} in {second}: the {len(best)} best of {len(pair)}"
        blocks.append(Block(title, best))
    return blocks


REPORT = Report[SharedFeature](
    "shared-features",
    "Components with their best partner in another adapter",
    shared_features,
    (
        Column("component", lambda r: r.component, "left"),
        Column("best partner", lambda r: text(r.partner), "left"),
        Column("r", lambda r: fixed(r.correlation, 2)),
        Column("shuffled", lambda r: fixed(r.shuffled, 2)),
        Column("random", lambda r: ABSENT if r.random is None else fixed(r.random, 2)),
        Column("p", lambda r: p_value(r.p_value)),
        Column("best of", lambda r: f"{count(r.n_candidates)}, {count(r.n_random)}", leaves=1),
        Column("tokens", lambda r: count(r.n_tokens), leaves=2),
    ),
    ("compare",),
    "components",
    order=38,
    label=lambda r: r.item,
    blocks=lambda rows: _blocks(list(rows)),
    legend=(
        "r: Pearson's correlation of the two scalars over the same tokens. Best of: how many components the other "
        "adapter has, and how many random directions there are. Shuffled: mean |r| with the best of as many after "
        "shuffles of the tokens within documents. Random: |r| with the best random direction at the same inputs; half "
        "of the components exceed it by luck. p: share of shuffles whose largest |r| of all pairs is as large."
    ),
    unasked=several,
)
