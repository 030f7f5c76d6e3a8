"""Where the adapter changes its mind: the tokens after which adapter and base part most, and what each would say."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from harness.contract.cells import percent, short, significant, text, visible
from harness.contract.report import Block, Column, Report
from harness.records import PartingToken
from harness.store.read import records_of

SHOWN = 12
"""Tokens that people see."""


def differences(connection: Connection, run_id: int) -> list[PartingToken]:
    """The stored tokens, the largest KL first."""
    return records_of(connection, PartingToken, run_id=run_id)


def _said(tokens: Sequence[str] | None, probabilities: Sequence[float] | None) -> str:
    if not tokens or not probabilities:
        return text(None)
    return f"{quoted(tokens[0])} {percent(probabilities[0])}"


def quoted(token: str) -> str:
    """A token between quotation marks, its spaces and line breaks visible; a long one is cut."""
    return f"“{short(visible(token), 16)}”"


def _context(row: PartingToken) -> str:
    return f"{visible(row.before)[-40:]}▮{short(visible(row.after), 16)}"


REPORT = Report[PartingToken](
    "differences",
    "Where the adapter changes its mind",
    differences,
    (
        Column("KL (nats)", lambda r: significant(r.kl_nats)),
        Column("after", _context, "left", wrap=True, ratio=3),
        Column("base says", lambda r: _said(r.base_tokens, r.base_probabilities), "left"),
        Column("adapter", lambda r: _said(r.adapter_tokens, r.adapter_probabilities), "left"),
        Column("full", lambda r: _said(r.full_tokens, r.full_probabilities), "left", leaves=2),
        Column("document", lambda r: f"{r.document}:{r.position}", "left", leaves=1),
    ),
    ("ablate",),
    "tokens where adapter and base part",
    order=103,
    label=lambda r: r.document,
    blocks=lambda rows: [Block("Where the adapter changes its mind", rows[:SHOWN])],
    legend=(
        "KL(adapter || base) of the distribution at ▮; each model's most likely next token there with its "
        "probability, and what the text says behind it. At most four tokens of a document. These are the largest of "
        "many: how much of the KL such tokens hold stands above. All of them: --format json or csv."
    ),
    before=("divergences",),
    after=("divergent-kinds", "residual-changes"),
)
