"""How alike two adapters are, module by module."""

from __future__ import annotations

from sqlalchemy import Connection

from harness.contract.cells import fixed, significant
from harness.contract.report import Block, Column, Report
from harness.records import ModuleOverlap
from harness.reports.adapters import several
from harness.store.read import records_of

SHOWN = 8
"""Modules of a pair that people see."""


def adapter_modules(connection: Connection, run_id: int) -> list[ModuleOverlap]:
    """A row per pair and module, in the model's order."""
    return records_of(connection, ModuleOverlap, run_id=run_id)


def _blocks(rows: list[ModuleOverlap]) -> list[Block[ModuleOverlap]]:
    blocks = []
    for first, second in dict.fromkeys((r.first, r.second) for r in rows):
        pair = [r for r in rows if (r.first, r.second) == (first, second)]
        best = sorted(pair, key=lambda r: -abs(r.weight_cosine or 0.0))[:SHOWN]
        blocks.append(Block(f"Modules of {first} and {second}: the {len(best)} most alike of {len(pair)}", best))
    return blocks


REPORT = Report[ModuleOverlap](
    "adapter-modules",
    "Modules that two adapters share",
    adapter_modules,
    (
        Column("module", lambda r: r.projection if r.layer is None else f"L{r.layer}.{r.projection}", "left"),
        Column("weights", lambda r: (fixed(r.weight_cosine), f"null {fixed(r.weight_null)}")),
        Column("reads", lambda r: (fixed(r.read_overlap), f"null {fixed(r.read_null)}")),
        Column("writes", lambda r: (fixed(r.write_overlap), f"null {fixed(r.write_null)}")),
        Column("norm, 2nd over 1st", lambda r: significant(r.norm_ratio)),
    ),
    ("compare",),
    "shared modules",
    order=37,
    label=lambda r: r.item,
    blocks=lambda rows: _blocks(list(rows)),
    legend="Weights: cosine of scaling * B A. Reads, writes and nulls as in the report of adapters.",
    unasked=several,
)
