"""The paper's numbers, ours beside them: equivalent within a stated margin, on the paper's model only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from sqlalchemy import Connection, select

from harness.contract.cells import Cell, count, percent, text, with_interval
from harness.contract.report import Block, Column, Report
from harness.paper.claims import PAPER_SOURCES, Claim, paper
from harness.records.base import Estimate, Flat
from harness.reports.card.clauses import ATTENTION, marked
from harness.reports.card.verdicts import judge_number, verdict_cell
from harness.reports.common.rows import paper_names, run_steps
from harness.reports.common.run import of_papers_model
from harness.reports.grades import grades
from harness.reports.groups import groups
from harness.reports.recovery import recovery
from harness.stats import share
from harness.store.schema import ActivationSet, Checkpoint, DictionaryScore, StudyRun

ROUNDING = 0.005
"""The paper prints shares that it gives no counts for as whole per cents."""

_DRAWS = 20_000


@dataclass(frozen=True)
class PaperNumberRow:
    """A number of the paper and what this run has for it. Intervals are 95 %; the paper prints none.

    `paper_ci_low` and `paper_ci_high` are computed from the paper's counts, unpaired, else from the rounding; exact
    numbers have none. `margin`: ours is equivalent within it. `same_model`: whether the run's model is the paper's.
    """

    place: str
    quantity: str
    subject: str
    unit: str
    paper_value: Annotated[Estimate, Flat("paper")]
    paper_n: int | None
    ours: Estimate | None
    ours_n: int | None
    ours_is: str | None
    margin: float
    verdict: str
    reason: str | None
    same_model: bool
    model: str | None


@dataclass(frozen=True)
class _Ours:
    """What this run has for a number, of how many cases, and what it is in words."""

    number: Estimate
    n: int
    what: str


def paper_numbers(connection: Connection, run_id: int) -> list[PaperNumberRow]:
    """Every number of the paper in the order of its pages, once per thing of ours that stands for it."""
    card = paper()
    model = connection.execute(select(StudyRun.model).where(StudyRun.id == run_id)).scalar_one()
    same_model = card.is_model(model)
    rows = []
    for claim in card.numbers:
        printed = _paper_interval(card.numbers, claim)
        found: list[_Ours | None] = [*_ours(claim, connection, run_id)]
        for ours in found or [None]:
            verdict = judge_number(ours.number if ours else None, printed, claim.margin, same_model=same_model)
            rows.append(
                PaperNumberRow(
                    place=claim.place,
                    quantity=claim.quantity,
                    subject=claim.subject,
                    unit=claim.unit,
                    paper_value=printed,
                    paper_n=claim.n,
                    ours=ours.number if ours else None,
                    ours_n=ours.n if ours else None,
                    ours_is=ours.what if ours else None,
                    margin=claim.margin,
                    verdict=verdict.word,
                    reason=verdict.reason if ours else "this run has no such number",
                    same_model=same_model,
                    model=model,
                )
            )
    return rows


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _ours(claim: Claim, connection: Connection, run_id: int) -> Iterator[_Ours]:
    kind, _, part = claim.quantity.partition("/")
    if kind in ("score", "recovery", "share_of_adapter_gap"):
        for benchmark, paper_name in paper_names(connection, run_id).items():
            if paper_name == claim.subject:
                yield from _benchmark_numbers(kind, part, benchmark, connection, run_id)
    elif kind == "grade":
        for g in grades(connection, run_id):
            if g.paper_source == claim.subject and str(g.grade) == part:
                yield _Ours(g.share_top, g.n_features, f"{g.source} by {g.interpreter}, highest contexts alone")
    else:
        for value, what in _counts(claim, connection, run_id):
            yield _Ours(_exact(value), 1, what)


def _benchmark_numbers(
    kind: str, part: str, benchmark: str, connection: Connection, run_id: int
) -> Iterator[_Ours]:  # fmt: skip
    if kind == "recovery" or part in ("base", "adapter", "full"):
        for r in recovery(connection, run_id):
            number: Estimate | None = getattr(r, part or "recovery")
            if r.benchmark == benchmark and number is not None:
                yield _Ours(number, r.n_items, marked(benchmark, not part and r.engines_differ))
        return
    for g in groups(connection, run_id):
        if (g.group, g.benchmark) == (part.removeprefix("without-"), benchmark):
            number = g.score if kind == "score" else g.share_of_adapter_gap
            if number is not None:
                yield _Ours(number, g.n_items or 0, marked(benchmark, kind != "score" and g.engines_differ))


def _counts(claim: Claim, connection: Connection, run_id: int) -> list[tuple[int, str]]:
    steps = run_steps(run_id)
    if claim.quantity == "n_components":
        sets = connection.execute(
            select(ActivationSet.projections_json).where(
                ActivationSet.step_id.in_(steps), ActivationSet.source == "adapter-activations"
            )
        ).scalars()
        matrices = [str(p) for projections in sets for p in projections]
        counted = [p for p in matrices if claim.subject == "all" or (p in ATTENTION) == (claim.subject == "attention")]
        return [(len(counted), "matrices with an adapter")] if matrices else []
    if claim.quantity == "n_parameters":
        adapters = select(Checkpoint.n_parameters).where(Checkpoint.step_id.in_(steps), Checkpoint.kind == "adapter")
        return [(n, "trained parameters") for n in connection.execute(adapters).scalars()]
    counts = select(DictionaryScore.name, getattr(DictionaryScore, claim.quantity))
    found = connection.execute(counts.where(DictionaryScore.step_id.in_(steps)))
    return [(n, name) for name, n in found if PAPER_SOURCES.get(name) == claim.subject]


def _paper_interval(numbers: Sequence[Claim], claim: Claim) -> Estimate:
    """What the paper's counts allow: Wilson's for a share, simulated for a ratio of gaps; else the rounding."""
    if claim.unit == "count":
        return _exact(claim.value)
    if claim.successes is not None and claim.n:
        wilson = share(claim.successes, claim.n)
        return Estimate(claim.value, wilson.low, wilson.high)
    kind, _, part = claim.quantity.partition("/")
    counts = {
        c.quantity.removeprefix("score/"): c for c in numbers if c.subject == claim.subject and c.successes is not None
    }
    parts = ("base", "adapter", "full") if kind == "recovery" else ("base", f"without-{part}", "adapter")
    if all(p in counts for p in parts):
        low, high = ratio_from_counts(*((counts[p].successes or 0, counts[p].n or 1) for p in parts))
        return Estimate(claim.value, min(low, claim.value), max(high, claim.value))
    return Estimate(claim.value, claim.value - ROUNDING, claim.value + ROUNDING)


def ratio_from_counts(base: tuple[int, int], middle: tuple[int, int], top: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of (middle - base) / (top - base) from counts alone: independent Jeffreys posteriors, simulated."""
    generator = np.random.default_rng(0)
    b, m, t = (generator.beta(k + 0.5, n - k + 0.5, _DRAWS) for k, n in (base, middle, top))
    low, high = np.quantile((m - b) / (t - b), [0.025, 0.975])
    return float(low), float(high)


_WORDS = {
    "recovery": "recovery", "n_alive": "alive latents", "n_latents": "latents", "n_components": "components",
    "n_parameters": "trained parameters", "grade/0": "monosemantic (grade 0)", "grade/1": "broad (grade 1)",
}  # fmt: skip


def _quantity(row: PaperNumberRow) -> str:
    kind, _, part = row.quantity.partition("/")
    if kind == "score":
        return f"score, {part.replace('without-', 'without ')}"
    if kind == "share_of_adapter_gap":
        return f"share of the adapter's gap without {part}"
    return _WORDS[row.quantity]


def _number(row: PaperNumberRow, number: Estimate | None) -> Cell:
    if number is None or row.unit == "count":
        return count(round(number.value)) if number else text(None)
    return percent(number.value) if number.high - number.low < 2.01 * ROUNDING else with_interval(number, percent)


def _margin(row: PaperNumberRow) -> str:
    if not row.margin:
        return "exact"
    return f"±{count(round(row.margin))}" if row.unit == "count" else f"±{100 * row.margin:.0f} points"


def _blocks(rows: Sequence[PaperNumberRow]) -> list[Block[PaperNumberRow]]:
    words = [r.verdict for r in rows]
    return [Block("Numbers: " + ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)), rows)]


REPORT = Report[PaperNumberRow](
    "paper-numbers",
    "The paper's numbers",
    paper_numbers,
    (
        Column("number", lambda r: (_quantity(r), f"{r.place}, {r.subject}"), "left", wrap=True, ratio=1),
        Column("paper", lambda r: _number(r, r.paper_value)),
        Column("ours", lambda r: _number(r, r.ours)),
        Column("n", lambda r: count(r.ours_n) if r.unit != "count" else text(None)),
        Column("margin", _margin, leaves=1),
        Column("verdict", lambda r: verdict_cell(r.verdict), "left"),
    ),
    ("evaluate", "train", "probe", "learn", "interpret", "ablate"),
    "numbers",
    order=221,
    label=lambda r: f"{_quantity(r)}, {r.subject}",
    legend=(
        "Another model's numbers stand for orientation and are not judged. On the paper's model a number is reproduced "
        "if it is equivalent to the paper's (two one-sided tests: the 90 % interval of the difference, both sides "
        "uncertain, lies within the margin), contradicted if the whole 95 % interval is outside the margin, else not "
        "resolved. The margins are this harness's, the paper states none. The paper prints no interval: its are "
        "computed from its counts, unpaired."
    ),
    blocks=_blocks,
    unasked=of_papers_model,
)
