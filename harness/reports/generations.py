"""How answers were generated: avg@k and pass@k, and how the generations ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import Cell, count, inline, percent, text, with_interval
from harness.contract.report import Column, Report
from harness.contract.settings import TRACE_LOSS
from harness.records.base import Estimate
from harness.reports.common.answers import Answer, answers
from harness.reports.common.rows import is_right_or_wrong, mean_score


@dataclass(frozen=True)
class GenerationRow:
    """One model variant's answers to one benchmark. Intervals are 95 %.

    `avg_at_k` is the mean score, `pass_at_k` the chance that one of k answers is right. Shares are of all answers; an
    unfinished one was cut by the token limit, a looping one ends in one unit over and over.
    """

    variant: str
    benchmark: str
    n_items: int
    k: int
    n_answers: int
    avg_at_k: Estimate
    pass_at_k: Estimate
    pass_at: tuple[float, ...]
    n_unanswered: int
    n_unfinished: int | None
    share_unfinished: Estimate | None
    n_looping: int | None
    share_looping: Estimate | None
    median_tokens: float | None
    max_tokens: int | None
    reason: str | None
    note: str | None


def generations(connection: Connection, run_id: int) -> list[GenerationRow]:
    """How every variant answered every benchmark."""
    return [_row(*place, of_place) for place, of_place in answers(connection, run_id).items() if place[0] != TRACE_LOSS]


def _row(benchmark: str, variant: str, answers: Sequence[Answer]) -> GenerationRow:
    by_item: dict[int, list[float]] = {}
    for answer in answers:
        by_item.setdefault(answer.doc_id, []).append(answer.score)
    sizes = {len(scores) for scores in by_item.values()}
    k = min(sizes)
    right = [(len(scores), sum(s >= 1 for s in scores)) for scores in by_item.values()]
    written = [a for a in answers if a.finish is not None]
    tokens = [a.n_tokens for a in written if a.n_tokens is not None]
    unfinished, looping = [a.finish == "length" for a in written], [a.loops for a in written]
    notes = []
    if not is_right_or_wrong(a.score for a in answers):
        notes.append("single scores are fractions: pass@k counts full marks")
    if len(sizes) > 1:
        notes.append(f"items have {k} to {max(sizes)} answers; pass@{k} is estimated from all of them")
    if written and len(written) < len(answers):
        notes.append(f"of {len(answers) - len(written)} answers nobody stored how they ended; shares are of the rest")
    return GenerationRow(
        variant=variant,
        benchmark=benchmark,
        n_items=len(by_item),
        k=k,
        n_answers=len(answers),
        avg_at_k=mean_score([sum(s) / len(s) for s in by_item.values()]),
        pass_at_k=mean_score([stats.pass_at(n, c, k) for n, c in right]),
        pass_at=tuple(sum(stats.pass_at(n, c, j) for n, c in right) / len(right) for j in range(1, k + 1)),
        n_unanswered=sum(not a.answered for a in answers),
        n_unfinished=sum(unfinished) if written else None,
        share_unfinished=_share(unfinished, written),
        n_looping=sum(looping) if written else None,
        share_looping=_share(looping, written),
        median_tokens=float(median(tokens)) if tokens else None,
        max_tokens=max(tokens, default=None),
        reason=None if written else "nothing was generated, or nobody stored how it ended",
        note="; ".join(notes) or None,
    )


def _share(cases: Sequence[bool], written: Sequence[Answer]) -> Estimate | None:
    """Share of answers with Wilson's interval; clustered by item where items have several answers."""
    if not cases:
        return None
    items = [a.doc_id for a in written]
    return stats.clustered_share(cases, items) if len(set(items)) < len(items) else stats.share(sum(cases), len(cases))


def _share_column(
    header: str,
    n: Callable[[GenerationRow], int | None],
    share: Callable[[GenerationRow], Estimate | None],
    leaves: int,
) -> Column[GenerationRow]:
    """A number of answers over their share and its interval."""
    return Column(
        header, lambda r: text(None) if n(r) is None else (count(n(r)), inline(share(r), percent)), leaves=leaves
    )


def _tokens(row: GenerationRow) -> Cell:
    if row.median_tokens is None:
        return text(None)
    return (f"{row.median_tokens:,.0f}", f"max {count(row.max_tokens)}")


REPORT = Report[GenerationRow](
    "generations",
    "Generations: repeated answers, and how they ended",
    generations,
    (
        Column("variant", lambda r: r.variant, "left"),
        Column("benchmark", lambda r: r.benchmark, "left", wrap=True),
        Column("answers", lambda r: f"{count(r.n_items)} x {r.k}"),
        Column("avg@k", lambda r: with_interval(r.avg_at_k)),
        Column("pass@k", lambda r: with_interval(r.pass_at_k) if r.k > 1 else text(None), leaves=4),
        Column("unanswered", lambda r: count(r.n_unanswered), leaves=2),
        _share_column("unfinished", lambda r: r.n_unfinished, lambda r: r.share_unfinished, leaves=5),
        _share_column("looping", lambda r: r.n_looping, lambda r: r.share_looping, leaves=3),
        Column("tokens", _tokens, leaves=1),
    ),
    ("evaluate", "ablate"),
    "benchmark answers",
    order=40,
    label=lambda r: f"{r.variant} on {r.benchmark}",
    legend=(
        "answers: items x k, the answers to each. avg@k: mean score; pass@k: chance that one of k is right, unbiased "
        "(1 to k: --format json). unanswered: no answer was found in them. unfinished: cut by the token limit. "
        "looping: ends in one unit over and over. tokens: median, prompt left out. 95 % intervals: Wilson; where "
        "items have several answers (or, by a note, scores are fractions) bootstrap-t over items, of shares Wilson at "
        "the effective n."
    ),
)
