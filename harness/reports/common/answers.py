"""Benchmark answers one by one, and the verdicts of an LLM grader on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.contract.settings import OF_TRACES
from harness.reports.common.rows import cached_query, plan_order, run_steps
from harness.store.schema import AnswerVerdict, Evaluation, Sample, Step

Place = tuple[str, str]
"""(benchmark, variant)."""


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


@cached_query
def answers(connection: Connection, run_id: int) -> dict[Place, list[Answer]]:
    """(benchmark, variant) -> its answers as they were stored; a later evaluation replaces another."""
    fields = (Sample.doc_id, Sample.repeat, Sample.score, Sample.extracted.is_not(None).label("answered"),
              Sample.finish, Sample.n_tokens, Sample.loops)  # fmt: skip
    rows = connection.execute(
        select(Evaluation.id, Evaluation.benchmark, Evaluation.variant, *fields)
        .join(Sample, Sample.evaluation_id == Evaluation.id)
        .where(Evaluation.step_id.in_(run_steps(run_id)))
        .order_by(*plan_order(run_id, Evaluation), Sample.doc_id, Sample.repeat)
    )
    by_place: dict[Place, list[Answer]] = {}
    newest: dict[Place, int] = {}
    for evaluation, benchmark, variant, doc_id, repeat, score, answered, finish, n_tokens, loops in rows:
        place = (benchmark, variant)
        if newest.get(place) != evaluation:
            newest[place], by_place[place] = evaluation, []
        by_place[place].append(Answer(doc_id, repeat, float(score), bool(answered), finish, n_tokens, bool(loops)))
    return by_place


@cached_query
def verdicts(connection: Connection, run_id: int) -> dict[Place, list[Any]]:
    """(benchmark, variant) -> the grader's verdicts."""
    table = AnswerVerdict.__table__
    rows = connection.execute(
        select(table).where(AnswerVerdict.step_id.in_(run_steps(run_id))).order_by(AnswerVerdict.id)
    )
    by_place: dict[Place, list[Any]] = {}
    for row in rows:
        by_place.setdefault((row.benchmark, row.variant), []).append(row)
    return by_place


@cached_query
def graded_items(connection: Connection, run_id: int) -> dict[Place, dict[int, float]]:
    """(benchmark, variant) -> doc_id -> score with the grader's verdicts, of variants that it has been through."""
    done = select(Step.name).where(Step.id.in_(run_steps(run_id)), Step.kind == "verify", Step.status == "done")
    variants = {name.partition("/")[2] for name in connection.execute(done).scalars()}
    if not variants:  # most runs: the answers need not be read
        return {}
    by_place = verdicts(connection, run_id)
    return {
        place: graded_scores(of_place, by_place.get(place, []))
        for place, of_place in answers(connection, run_id).items()
        if place[1] in variants and place[0] not in OF_TRACES
    }


def graded_scores(answers: Iterable[Answer], verdicts: Iterable[Any]) -> dict[int, float]:
    """doc_id -> mean over its repeats, by the grader's verdict where there is one, else by the rules."""
    equal = {(v.doc_id, v.repeat): float(v.equal) for v in verdicts if v.equal is not None}
    return item_means((a.doc_id, equal.get((a.doc_id, a.repeat), a.score)) for a in answers)


def item_means(scores: Iterable[tuple[int, float]]) -> dict[int, float]:
    """(doc_id, score) of every answer -> doc_id -> mean over its repeats."""
    items: dict[int, list[float]] = {}
    for doc_id, score in scores:
        items.setdefault(doc_id, []).append(score)
    return {doc_id: sum(repeats) / len(repeats) for doc_id, repeats in items.items()}
