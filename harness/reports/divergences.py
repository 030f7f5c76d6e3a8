"""How far adapter, full fine-tune and base are apart, and on how few tokens."""

from __future__ import annotations

from sqlalchemy import Connection

from harness.contract.cells import Cell, count, lines, percent, significant, with_interval
from harness.contract.report import Column, Report
from harness.records import Divergence, Estimate
from harness.store.read import records_of


def divergences(connection: Connection, run_id: int) -> list[Divergence]:
    """A row per pair of models; a pair that was not measured has a reason."""
    return records_of(connection, Divergence, run_id=run_id)


def _against(number: Estimate | None, null: Estimate | None, form: object) -> Cell:
    cell = with_interval(number, form)  # type: ignore[arg-type]
    if null is None or isinstance(cell, str):
        return cell
    return (*cell, f"shuffled {lines(with_interval(null, form))[0]}")  # type: ignore[arg-type]


REPORT = Report[Divergence](
    "divergences",
    "How far the models are apart",
    divergences,
    (
        Column("pair", lambda r: r.pair, "left"),
        Column("tokens", lambda r: (count(r.n_tokens), f"{count(r.n_documents)} docs")),
        Column("KL (nats)", lambda r: _against(r.kl_nats, r.kl_shuffled_nats, significant)),
        Column("in top 1 %", lambda r: _against(r.top_share, r.top_share_shuffled, percent)),
        Column("correlation", lambda r: _against(r.correlation, r.correlation_shuffled, significant)),
    ),
    ("ablate",),
    "pairs of models",
    order=102,
    label=lambda r: r.pair,
    legend=(
        "KL(first || second) per token of the response; 95 % intervals by bootstrap-t over documents. In top 1 %: "
        "share of the KL in the tokens where it is largest, by chance 1 % if all were equal. Shuffled: the second "
        "model's distribution is that of another token of the same document and segment. Correlation: Spearman's over"
        " tokens with the KL of adapter-base, mean over documents; shuffled: the tokens of each document permuted. "
        "The KLs of two pairs share a model, which correlates them: the shuffled tokens do not show that."
    ),
)
