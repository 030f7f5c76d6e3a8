"""What explanations are worth over all activation, per source, and with all features equally sparse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import count, inline, percent
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate
from harness.reports.common.features import Explained, coverages
from harness.reports.common.grades import gradings, mean_over_features


@dataclass(frozen=True)
class PurityRow:
    """Means over the explained features of a source.

    `density`: `own`, or `matched`: weaker activations count as 0, so that every feature is active on as few tokens as
    those of the sparsest source, and sources can be compared. `grade_0_top`: share with grade 0 by the highest contexts
    that are left, among the `n_graded` with such a grade. `difference` is the purity less the first source's. 95 %
    intervals: over layers and over features, the wider.
    """

    interpreter: str
    density: str
    source: str
    n_features: int
    n_covered: int
    density_per_token: float
    purity: Estimate | None
    recall: Estimate | None
    n_graded: int
    grade_0_top: Estimate | None
    difference: Estimate | None
    reason: str | None


_READINGS = {
    "own": ("density_per_token", "purity", "recall"),
    "matched": ("matched_density_per_token", "matched_purity", "matched_recall"),
}


def purity(connection: Connection, run_id: int) -> list[PurityRow]:
    """Own density first, then matched; sources in the order of the plan."""
    covered = coverages(connection, run_id)
    of_interpreter: dict[str, dict[str, list[tuple[Explained, Any]]]] = {}
    for (interpreter, source), graded in gradings(connection, run_id).items():
        pairs = [(g, covered.get((g.source, g.feature, interpreter))) for g in graded if g.status != "dead"]
        known = [(g, r) for g, r in pairs if r is not None]
        if known:
            of_interpreter.setdefault(interpreter, {})[source] = known
    rows = []
    for interpreter, sources in of_interpreter.items():
        for reading in _READINGS:
            first: Estimate | None = None
            for source, pairs in sources.items():
                row = _row(interpreter, source, reading, pairs, first)
                first = first or row.purity
                rows.append(row)
    return rows


def _row(
    interpreter: str, source: str, reading: str, pairs: Sequence[tuple[Explained, Any]], first: Estimate | None
) -> PurityRow:
    density, purity_name, recall_name = _READINGS[reading]

    def mean(name: str) -> Estimate | None:
        values = [(getattr(r, name), g.layer) for g, r in pairs if getattr(r, name) is not None]
        return mean_over_features(values)

    found = mean(purity_name)
    grade_of: Callable[[Explained, Any], int | None] = (
        (lambda g, r: g.grade_top) if reading == "own" else (lambda g, r: r.matched_grade_top)
    )
    graded = [(grade_of(g, r), g.layer) for g, r in pairs if grade_of(g, r) is not None]
    n_missing = sum(getattr(r, purity_name) is None for _, r in pairs)
    return PurityRow(
        interpreter=interpreter,
        density=reading,
        source=source,
        n_features=len(pairs),
        n_covered=found.n or 0 if found else 0,
        density_per_token=sum(getattr(r, density) for _, r in pairs) / len(pairs),
        purity=found,
        recall=mean(recall_name),
        n_graded=len(graded),
        grade_0_top=stats.clustered_share([g == 0 for g, _ in graded], [x for _, x in graded]) if graded else None,
        difference=_difference(found, first),
        reason=f"{n_missing} of {len(pairs)} cannot be held against tokens" if n_missing else None,
    )


def _difference(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    """One - other with the interval of two independent numbers by their own intervals (MOVER, Zou & Donner 2008)."""
    if one is None or other is None:
        return None
    value = one.value - other.value
    below = ((one.value - one.low) ** 2 + (other.high - other.value) ** 2) ** 0.5
    above = ((one.high - one.value) ** 2 + (other.value - other.low) ** 2) ** 0.5
    return Estimate(value, value - below, value + above)


def _blocks(rows: Sequence[PurityRow]) -> list[Block[PurityRow]]:
    titles = {"own": "as they are", "matched": "with all features equally sparse"}
    return [
        Block(f"explained by {interpreter}, {titles[reading]}",
              [r for r in rows if (r.interpreter, r.density) == (interpreter, reading)])
        for interpreter in dict.fromkeys(r.interpreter for r in rows)
        for reading in _READINGS
    ]  # fmt: skip


REPORT = Report[PurityRow](
    "purity",
    "Purity: what explanations are worth over all activation",
    purity,
    (
        Column("source", lambda r: r.source, "left"),
        Column("features", lambda r: f"{count(r.n_covered)} of {count(r.n_features)}"),
        Column("density", lambda r: percent(r.density_per_token, 1), leaves=2),
        Column("purity", lambda r: inline(r.purity, percent)),
        Column("less the first's", lambda r: inline(r.difference, percent), leaves=1),
        Column("recall", lambda r: inline(r.recall, percent)),
        Column("grade 0, top", lambda r: inline(r.grade_0_top, percent)),
    ),
    ("cover",),
    "explanations held against all activation",
    order=145,
    label=lambda r: f"{r.interpreter}, {r.density}, {r.source}",
    legend=(
        "Purity: share of all of a feature's activation on tokens that its explanation covers; recall: share of the "
        "covered tokens on which it is active; means over features. Equally sparse: each feature's weaker activations "
        "count as 0 until it is active on as few tokens as the median feature of the sparsest source. Grade 0, top: by "
        "the highest contexts that are left. 95 % intervals: over layers and over features, the wider."
    ),
    blocks=_blocks,
)
