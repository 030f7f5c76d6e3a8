"""The reports of benchmark answers: how they ended and repeat, and what an LLM grader says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.reports import queries
from harness.reports.cells import Cell, Column, count, inline, percent, text, with_interval
from harness.reports.section import Block, Section


def _of(name: str) -> Column:
    """A share of the answers, over its interval."""

    fields = (f"n_{name}", f"share_{name}", f"share_{name}_ci_low", f"share_{name}_ci_high")

    def cell(row: Any) -> Cell:
        n, share, low, high = (getattr(row, field) for field in fields)
        return text(None) if n is None else (count(n), inline(share, low, high, percent))

    return Column(name, cell)


def _pass_at_k(row: Any) -> Cell:
    return with_interval(row.pass_at_k, row.pass_at_k_ci_low, row.pass_at_k_ci_high) if row.k > 1 else text(None)


def _tokens(row: Any) -> Cell:
    if row.median_tokens is None:
        return text(None)
    return (f"{row.median_tokens:,.0f}", f"max {count(row.max_tokens)}")


def _disagreements(row: Any) -> Cell:
    return (f"{count(row.n_accepted)} accepted", f"{count(row.n_rejected)} rejected")


def _lost(row: Any) -> Cell:
    lost = (
        (row.n_unparsed, "unreadable"),
        (row.n_failed, "failed"),
        (row.n_orders_disagree, f"of {count(row.n_both_orders)} by order"),
    )
    return tuple(f"{count(n)} {what}" for n, what in lost if n) or "0"


def _by_grader(rows: Sequence[Any]) -> list[Block]:
    graders = dict.fromkeys(row.grader for row in rows)
    return [Block(f"Verdicts of {name}, beside the rules' scores", [r for r in rows if r.grader == name])
            for name in graders]  # fmt: skip


_GENERATIONS = Section(
    "generations",
    "Generations: repeated answers, and how they ended",
    queries.generations,
    (
        Column("variant", lambda r: r.variant, "left"),
        Column("benchmark", lambda r: r.benchmark, "left", wrap=True),
        Column("answers", lambda r: f"{count(r.n_items)} x {r.k}"),
        Column("avg@k", lambda r: with_interval(r.avg_at_k, r.avg_at_k_ci_low, r.avg_at_k_ci_high)),
        Column("pass@k", _pass_at_k),
        Column("unanswered", lambda r: count(r.n_unanswered)),
        _of("unfinished"),
        _of("looping"),
        Column("tokens", _tokens),
    ),
    ("evaluate", "ablate"),
    "benchmark answers",
    label=lambda r: f"{r.variant} on {r.benchmark}",
    legend=(
        "answers: items x k, the answers to each. avg@k: mean score; pass@k: chance that one of k is right, unbiased "
        "(1 to k: --format json). unanswered: no answer was found in them. unfinished: cut by the token limit. "
        "looping: ends in one unit over and over. tokens: median, prompt left out. 95 % intervals: Wilson; where items "
        "have several answers bootstrap over items, shares at least as wide as Wilson's."
    ),
)

_GRADER = Section(
    "grader",
    "The grader: what an LLM says of the answers",
    queries.grader,
    (
        Column("variant", lambda r: r.variant, "left"),
        Column("benchmark", lambda r: r.benchmark, "left", wrap=True),
        Column("asked", lambda r: (f"{count(r.n_asked)} of", f"{count(r.n_answers)}")),
        Column("no verdict", _lost),
        Column("against the rules", _disagreements),
        Column("agreement", lambda r: with_interval(r.agreement, r.agreement_ci_low, r.agreement_ci_high, percent)),
        Column("by rules", lambda r: with_interval(r.score_rules, r.score_rules_ci_low, r.score_rules_ci_high)),
        Column("with verdicts", lambda r: with_interval(r.score_graded, r.score_graded_ci_low, r.score_graded_ci_high)),
    ),
    ("verify",),
    "verdicts on answers",
    label=lambda r: f"{r.variant} on {r.benchmark}",
    legend=(
        "against the rules: answers that they reject and the grader accepts, and the other way round. agreement: of "
        "the verdicts. by order: asked with the gold answer first and last, it contradicted itself. Where there is no "
        "verdict the rules' score stands. 95 % intervals: Wilson; bootstrap over items where they have several answers."
    ),
    blocks=_by_grader,
)

ANSWERS = (_GENERATIONS, _GRADER)
"""In the order in which they are read."""
