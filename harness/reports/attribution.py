"""Attribution: how far contributions add up, and how far they agree with components switched off exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import count, percent, significant, with_interval
from harness.contract.report import Block, Column, Report
from harness.records.attribute import Attribution
from harness.records.base import Estimate
from harness.reports.common.rows import cached_query
from harness.store.read import records_of

TOP = 10
"""Components of an answer that are compared as its largest."""

_METHODS = ("integrated", "gradient", "own", "null")
_WORDS = {
    "integrated": "integrated, common gain",
    "gradient": "gradient x activation",
    "own": "integrated, own gain",
    "null": "null: permuted",
}


@dataclass(frozen=True)
class AttributionRow:
    """One way to attribute, over all answers of an outcome. Intervals are 95 %, over documents.

    `method`: `integrated` along the common gain of all components, from base to adapter; `gradient` times activation
    with the adapter as it is; `own`: each component along its own gain, from the adapter; `null`: the integrated
    contributions of each answer dealt out to its components at random. `contributed` is the mean of their sum,
    `difference` what they should add up to: adapter less base; for `own`, the falls of the components switched off one
    by one. `remainder_share`: median of |sum - difference| / |difference|. `spearman` and `top_share` compare with the
    exact falls, within each answer, over all components that were switched off (`n_measured` per answer); then
    `spearman_drawn` over those drawn at random, and `spearman_mean` over the means of all answers. `top_share`: of the
    ten largest by one how many are among the ten largest by the other.
    """

    outcome: str
    span: str
    method: str
    n_answers: int
    n_documents: int
    n_measured: float
    contributed: float
    difference: float
    remainder_share: float | None
    n_nodes: float | None
    spearman: Estimate | None
    spearman_drawn: Estimate | None
    spearman_mean: float | None
    top_share: Estimate | None
    reason: str | None


@cached_query
def attribution(connection: Connection, run_id: int) -> list[AttributionRow]:
    """Every outcome, each by all methods that were asked for."""
    of_outcome: dict[tuple[str, str], list[Attribution]] = {}
    for record in records_of(connection, Attribution, run_id=run_id):
        of_outcome.setdefault((record.outcome, record.span), []).append(record)
    return [
        _row(method, records)
        for records in of_outcome.values()
        for method in _METHODS
        if method != "own" or any(r.own for r in records)
    ]


def _values(method: str, record: Attribution, draw: np.random.Generator) -> Mapping[str, float]:
    if method == "null":
        return dict(zip(record.integrated, draw.permutation(list(record.integrated.values())).tolist(), strict=True))
    return {"integrated": record.integrated, "gradient": record.first_order, "own": record.own}[method]


def _row(method: str, records: Sequence[Attribution]) -> AttributionRow:
    draw = np.random.default_rng(0)
    values = [_values(method, r, draw) for r in records]
    expected = [sum(r.left_out.values()) if method == "own" else r.difference for r in records]
    sums = [sum(v.values()) for v in values]
    shares = [abs(s - e) / abs(e) for s, e in zip(sums, expected, strict=True) if e]
    pairs = [_compared(v, r.left_out, r.left_out) for v, r in zip(values, records, strict=True)]
    drawn = [_compared(v, r.left_out, r.drawn) for v, r in zip(values, records, strict=True)]
    documents = [r.document for r in records]
    made = _over(documents, [_spearman(*p) for p in pairs])
    return AttributionRow(
        outcome=records[0].outcome,
        span=records[0].span,
        method=method,
        n_answers=len(records),
        n_documents=len({*documents}),
        n_measured=float(np.mean([len(r.left_out) for r in records])),
        contributed=float(np.mean(sums)),
        difference=float(np.mean(expected)),
        remainder_share=float(np.median(shares)) if shares and method != "null" else None,
        n_nodes=float(np.mean([r.n_nodes for r in records])) if method == "integrated" else None,
        spearman=made,
        spearman_drawn=_over(documents, [_spearman(*p) for p in drawn]),
        spearman_mean=_spearman(*_means(values, records)),
        top_share=_over(documents, [_top_share(*p) for p in pairs]),
        reason=None if made else "too few components were switched off exactly to compare ranks",
    )


def _compared(
    values: Mapping[str, float], exact: Mapping[str, float], names: Sequence[str] | Mapping[str, float]
) -> tuple[list[float], list[float]]:
    both = [n for n in names if n in values]
    return [values[n] for n in both], [exact[n] for n in both]


def _means(values: Sequence[Mapping[str, float]], records: Sequence[Attribution]) -> tuple[list[float], list[float]]:
    """Of each component, over the answers in which it was switched off."""
    ours: dict[str, list[float]] = {}
    exact: dict[str, list[float]] = {}
    for v, record in zip(values, records, strict=True):
        for name, fall in record.left_out.items():
            if name in v:
                ours.setdefault(name, []).append(v[name])
                exact.setdefault(name, []).append(fall)
    return [float(np.mean(x)) for x in ours.values()], [float(np.mean(x)) for x in exact.values()]


def _spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    found = stats.spearman(one, other) if one else stats.Undefined("nothing was switched off")
    return None if isinstance(found, stats.Undefined) else found


def _top_share(one: Sequence[float], other: Sequence[float]) -> float | None:
    if len(one) <= TOP:
        return None
    tops = [{*np.argsort(-np.abs(x), kind="stable")[:TOP].tolist()} for x in (one, other)]
    return len(tops[0] & tops[1]) / TOP


def _over(documents: Sequence[str], values: Sequence[float | None]) -> Estimate | None:
    """The mean over answers with its interval over documents."""
    sums: dict[str, list[float]] = {}
    for document, value in zip(documents, values, strict=True):
        if value is not None:
            sums.setdefault(document, []).append(value)
    if not sums:
        return None
    return stats.ratio_over_documents([sum(v) for v in sums.values()], [len(v) for v in sums.values()])


def _blocks(rows: Sequence[AttributionRow]) -> list[Block[AttributionRow]]:
    of: dict[str, list[AttributionRow]] = {}
    for r in rows:
        n = f"{count(r.n_answers)} outcomes of {count(r.n_documents)} answers"
        what = f"Attribution of the {r.outcome} ({r.span}): {n}"
        of.setdefault(what, []).append(r)
    return [Block(title, same) for title, same in of.items()]


REPORT = Report[AttributionRow](
    "attribution",
    "Attribution: which components an outcome comes from",
    attribution,
    (
        Column("attributed by", lambda r: _WORDS[r.method], "left", wrap=True),
        Column("sum", lambda r: significant(r.contributed)),
        Column("true", lambda r: significant(r.difference)),
        Column("remainder", lambda r: percent(r.remainder_share, 1)),
        Column("Spearman", lambda r: with_interval(r.spearman)),
        Column("drawn ones", lambda r: with_interval(r.spearman_drawn), leaves=1),
        Column("of means", lambda r: significant(r.spearman_mean, 2), leaves=3),
        Column("top ten", lambda r: with_interval(r.top_share, percent)),
    ),
    ("ablate",),
    "attributions",
    order=77,
    label=lambda r: f"{r.outcome}, {_WORDS[r.method]}",
    legend=(
        "Sum: mean over answers of all contributions; true: what they should add up to, adapter less base (own gain: "
        "the falls without each component); remainder: median of |sum - true| / |true|. Spearman: ranks against the "
        "exact fall without each component, within an answer, mean over answers; drawn ones: over those drawn at "
        "random; of means: over contributions averaged first. Top ten: share of the ten largest that are the same. "
        "95 % intervals over documents. The common gain says how the adapter came about from the base, leaving one out "
        "what the adapter loses: they differ where components stand in for each other (docs/attribution.md)."
    ),
    blocks=_blocks,
)
