"""What an LLM grader says of benchmark answers, beside the rules' scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import Cell, count, percent, with_interval
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate
from harness.reports.common.answers import Answer, answers, graded_scores, item_means, verdicts
from harness.reports.common.rows import mean_score


@dataclass(frozen=True)
class GraderRow:
    """An LLM's verdicts on one model variant's answers to one benchmark. Intervals are 95 %.

    `score_graded` counts its verdict where there is one, else the rules' score. `agreement` is the share of its
    verdicts that are the rules'; of the others, `n_accepted` accept what the rules reject.
    """

    variant: str
    benchmark: str
    grader: str
    n_items: int
    n_answers: int
    n_asked: int
    n_answered: int
    n_unparsed: int
    n_failed: int
    n_orders_disagree: int
    n_both_orders: int
    score_rules: Estimate
    score_graded: Estimate
    n_accepted: int
    n_rejected: int
    agreement: Estimate | None
    reason: str | None


def grader(connection: Connection, run_id: int) -> list[GraderRow]:
    """What the grader said, for variants and benchmarks that it was asked about."""
    by_place = verdicts(connection, run_id)
    return [
        _row(*place, of_place, by_place[place])
        for place, of_place in answers(connection, run_id).items()
        if place in by_place
    ]


def _row(benchmark: str, variant: str, answers: Sequence[Answer], verdicts: Sequence[Any]) -> GraderRow:
    pairs = [(v.score_rules >= 1, bool(v.equal)) for v in verdicts if v.equal is not None]
    return GraderRow(
        variant=variant,
        benchmark=benchmark,
        grader=", ".join(dict.fromkeys(v.grader for v in verdicts)),
        n_items=len({a.doc_id for a in answers}),
        n_answers=len(answers),
        n_asked=len(verdicts),
        n_answered=len(pairs),
        n_unparsed=sum(v.status == "unparsed" for v in verdicts),
        n_failed=sum(v.status == "failed" for v in verdicts),
        n_orders_disagree=sum(v.status == "orders-disagree" for v in verdicts),
        n_both_orders=sum(v.equal_gold_first is not None and v.equal_gold_last is not None for v in verdicts),
        score_rules=mean_score(list(item_means((a.doc_id, a.score) for a in answers).values())),
        score_graded=mean_score(list(graded_scores(answers, verdicts).values())),
        n_accepted=sum(not rules and llm for rules, llm in pairs),
        n_rejected=sum(rules and not llm for rules, llm in pairs),
        agreement=stats.share(sum(rules == llm for rules, llm in pairs), len(pairs)) if pairs else None,
        reason=None if pairs else "no reply gave a verdict",
    )


def _without_verdict(row: GraderRow) -> Cell:
    numbers = (
        (row.n_unparsed, "unreadable"),
        (row.n_failed, "failed"),
        (row.n_orders_disagree, f"of {count(row.n_both_orders)} by order"),
    )
    return tuple(f"{count(n)} {what}" for n, what in numbers if n) or "0"


def _by_grader(rows: Sequence[GraderRow]) -> list[Block[GraderRow]]:
    graders = dict.fromkeys(row.grader for row in rows)
    return [Block(f"Verdicts of {name}, beside the rules' scores", [r for r in rows if r.grader == name])
            for name in graders]  # fmt: skip


REPORT = Report[GraderRow](
    "grader",
    "The grader: what an LLM says of the answers",
    grader,
    (
        Column("variant", lambda r: r.variant, "left"),
        Column("benchmark", lambda r: r.benchmark, "left", wrap=True),
        Column("asked", lambda r: (f"{count(r.n_asked)} of", f"{count(r.n_answers)}"), leaves=1),
        Column("no verdict", _without_verdict, leaves=2),
        Column(
            "against the rules",
            lambda r: (f"{count(r.n_accepted)} accepted", f"{count(r.n_rejected)} rejected"),
            leaves=3,
        ),
        Column("agreement", lambda r: with_interval(r.agreement, percent)),
        Column("by rules", lambda r: with_interval(r.score_rules)),
        Column("with verdicts", lambda r: with_interval(r.score_graded)),
    ),
    ("verify",),
    "verdicts on answers",
    order=50,
    label=lambda r: f"{r.variant} on {r.benchmark}",
    legend=(
        "against the rules: answers that they reject and the grader accepts, and the other way round. agreement: of "
        "the verdicts. by order: asked with the gold answer first and last, it contradicted itself. Where there is no "
        "verdict the rules' score stands. 95 % intervals: Wilson; bootstrap-t over items where they have several "
        "answers."
    ),
    blocks=_by_grader,
)
