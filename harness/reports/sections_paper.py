"""The paper card: what the paper claims, what this run says, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.reports import queries
from harness.reports.cells import Cell, Column, count, fixed, percent, significant, text, with_interval
from harness.reports.query_paper import ROUNDING
from harness.reports.section import Block, Section
from harness.reports.verdicts import RULE

_UNITS = {"count": count, "share": percent}


_WORDS = {
    "recovery": "recovery", "n_alive": "alive latents", "n_latents": "latents", "n_components": "components",
    "n_parameters": "trained parameters", "grade/0": "monosemantic (grade 0)", "grade/1": "broad (grade 1)",
}  # fmt: skip


def _claim(row: Any) -> str:
    """A quantity in words; patterns are words already."""
    kind, _, part = row.claim.partition("/")
    if row.unit == "share" and kind == "score":
        return f"score, {part.replace('without-', 'without ')}"
    if row.unit == "share" and kind == "share_of_adapter_gap":
        return f"share of the adapter's gap without {part}"
    return _WORDS.get(row.claim, row.claim)


def _number(row: Any, name: str) -> Cell:
    """`paper` or `ours`."""
    value = row.ours if name == "ours" else row.paper_value
    low, high = getattr(row, f"{name}_ci_low"), getattr(row, f"{name}_ci_high")
    if value is None:
        return text(None)
    if row.unit == "count":
        return count(round(value))
    if low is not None and high is not None and high - low <= 2 * ROUNDING:
        low = high = None
    if row.unit == "pattern" and "nats" in (row.ours_is or ""):
        return with_interval(value, low, high, significant)
    point = low is None and high is None and name == "paper"
    form = percent if row.unit == "share" else fixed
    return form(value) if point else with_interval(value, low, high, form)


def _blocks(rows: Sequence[Any]) -> list[Block]:
    numbers = [r for r in rows if r.unit in ("share", "count", "layers")]
    patterns = [r for r in rows if r.unit not in ("share", "count", "layers")]
    titles = (f"Numbers: {_tally(numbers)}", numbers), (f"Patterns: {_tally(patterns)}", patterns)
    return [Block(title, own) for title, own in titles if own]


def _tally(rows: Sequence[Any]) -> str:
    words = list(dict.fromkeys(r.verdict for r in rows))
    return ", ".join(f"{sum(r.verdict == w for r in rows)} {w}" for w in words)


def model_sentence(row: Any) -> str:
    """Whether the run's model is the paper's, plainly."""
    if row.same_model:
        return f"This run's model is the paper's: {row.model}."
    return (
        f"This is another model ({text(row.model)}), not the paper's Qwen2.5-32B-Instruct: its numbers cannot "
        "reproduce or contradict the paper's, only the patterns are tested."
    )


PAPER = Section(
    "paper",
    "The paper's claims",
    queries.paper_card,
    (
        Column("where", lambda r: r.place, "left"),
        Column("claim", _claim, "left", wrap=True, ratio=3),
        Column("of", lambda r: text(r.subject), "left", wrap=True, ratio=2),
        Column("paper", lambda r: _number(r, "paper")),
        Column("ours", lambda r: _number(r, "ours")),
        Column("n", lambda r: count(r.ours_n) if r.unit != "count" else text(None)),
        Column("verdict", lambda r: r.verdict, "left", wrap=True),
    ),
    ("evaluate", "train", "probe", "learn", "interpret", "ablate"),
    "claims",
    label=lambda r: f"{r.claim}, {r.subject}" if r.subject else r.claim,
    legend=RULE + " The paper prints no interval: its are computed from its counts, unpaired. Ours of a pattern: the "
    "difference that decides; JSON and CSV say of what.",
    blocks=_blocks,
    lead=lambda rows: model_sentence(rows[0]),
)
"""`harness report paper`."""
