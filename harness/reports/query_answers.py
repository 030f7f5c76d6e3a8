"""Benchmark answers one by one: avg@k and pass@k, how generations ended, and what an LLM grader says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Connection, select

from harness import stats
from harness.reports.query_common import interval_values, mean_score, once, own_steps, plan_order
from harness.store.schema import AnswerVerdict, Evaluation, Sample, Step


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
    avg_at_k: float
    avg_at_k_ci_low: float | None
    avg_at_k_ci_high: float | None
    pass_at_k: float
    pass_at_k_ci_low: float | None
    pass_at_k_ci_high: float | None
    pass_at: tuple[float, ...]
    n_unanswered: int
    n_unfinished: int | None
    share_unfinished: float | None
    share_unfinished_ci_low: float | None
    share_unfinished_ci_high: float | None
    n_looping: int | None
    share_looping: float | None
    share_looping_ci_low: float | None
    share_looping_ci_high: float | None
    median_tokens: float | None
    max_tokens: int | None
    reason: str | None
    note: str | None


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
    score_rules: float
    score_rules_ci_low: float | None
    score_rules_ci_high: float | None
    score_graded: float
    score_graded_ci_low: float | None
    score_graded_ci_high: float | None
    n_accepted: int
    n_rejected: int
    agreement: float | None
    agreement_ci_low: float | None
    agreement_ci_high: float | None
    reason: str | None


@dataclass(frozen=True)
class Answer:
    """A stored answer, without its text."""

    doc_id: int
    repeat: int
    score: float
    answered: bool
    finish: str | None
    n_tokens: int | None
    loops: bool


@once
def answers(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Answer]]:
    """(benchmark, variant) -> its answers as they were stored; a later evaluation replaces another."""
    fields = (Sample.doc_id, Sample.repeat, Sample.score, Sample.extracted.is_not(None).label("answered"),
              Sample.finish, Sample.n_tokens, Sample.loops)  # fmt: skip
    rows = connection.execute(
        select(Evaluation.id, Evaluation.benchmark, Evaluation.variant, *fields)
        .join(Sample, Sample.evaluation_id == Evaluation.id)
        .where(Evaluation.step_id.in_(own_steps(run_id)))
        .order_by(*plan_order(run_id, Evaluation), Sample.doc_id, Sample.repeat)
    )
    found: dict[tuple[str, str], list[Answer]] = {}
    newest: dict[tuple[str, str], int] = {}
    for evaluation, benchmark, variant, doc_id, repeat, score, answered, finish, n_tokens, loops in rows:
        place = (benchmark, variant)
        if newest.get(place) != evaluation:
            newest[place], found[place] = evaluation, []
        found[place].append(Answer(doc_id, repeat, float(score), bool(answered), finish, n_tokens, bool(loops)))
    return found


@once
def verdicts(connection: Connection, run_id: int) -> dict[tuple[str, str], list[Any]]:
    """(benchmark, variant) -> the grader's verdicts."""
    table = AnswerVerdict.__table__
    rows = connection.execute(
        select(table).where(AnswerVerdict.step_id.in_(own_steps(run_id))).order_by(AnswerVerdict.id)
    )
    found: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        found.setdefault((row.benchmark, row.variant), []).append(row)
    return found


@once
def graded_items(connection: Connection, run_id: int) -> dict[tuple[str, str], dict[int, float]]:
    """(benchmark, variant) -> doc_id -> score with the grader's verdicts, of variants that it has been through."""
    done = select(Step.name).where(Step.id.in_(own_steps(run_id)), Step.stage == "verify", Step.status == "done")
    variants = {name.partition("/")[2] for name in connection.execute(done).scalars()}
    said = verdicts(connection, run_id)
    return {
        place: graded_scores(own, said.get(place, []))
        for place, own in answers(connection, run_id).items()
        if place[1] in variants
    }


def graded_scores(answers: Iterable[Answer], verdicts: Iterable[Any]) -> dict[int, float]:
    """doc_id -> mean over its repeats, by the grader's verdict where there is one, else by the rules."""
    said = {(v.doc_id, v.repeat): float(v.equal) for v in verdicts if v.equal is not None}
    return _by_item([(a.doc_id, said.get((a.doc_id, a.repeat), a.score)) for a in answers])


def generations(connection: Connection, run_id: int) -> list[GenerationRow]:
    """How every variant answered every benchmark."""
    return [_generation(*place, own) for place, own in answers(connection, run_id).items()]


def grader(connection: Connection, run_id: int) -> list[GraderRow]:
    """What the grader said, for variants and benchmarks that it was asked about."""
    found = answers(connection, run_id)
    said = verdicts(connection, run_id)
    return [_grader(*place, found[place], said[place]) for place in found if place in said]


def _generation(benchmark: str, variant: str, own: Sequence[Answer]) -> GenerationRow:
    by_item: dict[int, list[float]] = {}
    for answer in own:
        by_item.setdefault(answer.doc_id, []).append(answer.score)
    sizes = {len(scores) for scores in by_item.values()}
    k = min(sizes)
    right = [(len(scores), sum(s >= 1 for s in scores)) for scores in by_item.values()]
    average = mean_score([sum(s) / len(s) for s in by_item.values()])
    passed = mean_score([stats.pass_at(n, c, k) for n, c in right])
    written = [a for a in own if a.finish is not None]
    tokens = [a.n_tokens for a in written if a.n_tokens is not None]
    notes = []
    if len(sizes) > 1:
        notes.append(f"items have {k} to {max(sizes)} answers; pass@{k} is estimated from all of them")
    if written and len(written) < len(own):
        notes.append(f"of {len(own) - len(written)} answers nobody stored how they ended; shares are of the rest")
    return GenerationRow(
        variant=variant,
        benchmark=benchmark,
        n_items=len(by_item),
        k=k,
        n_answers=len(own),
        **interval_values("avg_at_k", average),
        **interval_values("pass_at_k", passed),
        pass_at=tuple(sum(stats.pass_at(n, c, j) for n, c in right) / len(right) for j in range(1, k + 1)),
        n_unanswered=sum(not a.answered for a in own),
        **_share("unfinished", [a.finish == "length" for a in written], [a.doc_id for a in written]),
        **_share("looping", [a.loops for a in written], [a.doc_id for a in written]),
        median_tokens=float(median(tokens)) if tokens else None,
        max_tokens=max(tokens, default=None),
        reason=None if written else "nothing was generated, or nobody stored how it ended",
        note="; ".join(notes) or None,
    )


def _grader(benchmark: str, variant: str, own: Sequence[Answer], said: Sequence[Any]) -> GraderRow:
    rules = mean_score(list(_by_item([(a.doc_id, a.score) for a in own]).values()))
    graded = mean_score(list(graded_scores(own, said).values()))
    pairs = [(v.score_rules >= 1, bool(v.equal)) for v in said if v.equal is not None]
    same = stats.share(sum(a == b for a, b in pairs), len(pairs)) if pairs else None
    return GraderRow(
        variant=variant,
        benchmark=benchmark,
        grader=", ".join(dict.fromkeys(v.grader for v in said)),
        n_items=len({a.doc_id for a in own}),
        n_answers=len(own),
        n_asked=len(said),
        n_answered=len(pairs),
        n_unparsed=sum(v.status == "unparsed" for v in said),
        n_failed=sum(v.status == "failed" for v in said),
        n_orders_disagree=sum(v.status == "orders-disagree" for v in said),
        n_both_orders=sum(v.equal_gold_first is not None and v.equal_gold_last is not None for v in said),
        **interval_values("score_rules", rules),
        **interval_values("score_graded", graded),
        n_accepted=sum(not a and b for a, b in pairs),
        n_rejected=sum(a and not b for a, b in pairs),
        **interval_values("agreement", same),
        reason=None if pairs else "no reply gave a verdict",
    )


def _by_item(scores: Iterable[tuple[int, float]]) -> dict[int, float]:
    items: dict[int, list[float]] = {}
    for doc_id, score in scores:
        items.setdefault(doc_id, []).append(score)
    return {doc_id: sum(own) / len(own) for doc_id, own in items.items()}


def _share(name: str, cases: Sequence[bool], items: Sequence[int]) -> dict[str, Any]:
    """Count and share of answers, with Wilson's interval; repeats of an item are no independent cases."""
    empty = {f"n_{name}": None, **interval_values(f"share_{name}", None)}
    if not cases:
        return empty
    found = stats.clustered_share(cases, items) if len(set(items)) < len(items) else stats.share(sum(cases), len(cases))
    return {f"n_{name}": sum(cases), **interval_values(f"share_{name}", found)}
