"""Shares of the grades per source: how monosemantic the explained features are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from harness import stats
from harness.contract.cells import count, inline, percent, text
from harness.contract.report import Block, Column, Report
from harness.paper.claims import PAPER_SOURCES
from harness.records.base import Estimate
from harness.reports.common.controls import LEGEND, above_cell, beside_controls, controls, sentence
from harness.reports.common.features import coverages
from harness.reports.common.grades import LABELS, gradings, mean_over_features, numbers, outcome, outcome_top
from harness.reports.common.planted import Errors, planted_grades
from harness.reports.common.rows import cached_query, claims


@dataclass(frozen=True)
class GradeRow:
    """The share of a source's features with one grade, or with one reason for having none.

    `n` and `share` are of the grade on contexts of all strengths, `n_top` and `share_top` of the grade on the highest
    contexts alone, which is the paper's. `n_features` is the denominator: all that were to be graded, failures
    included, dead ones (`n_dead`) not. 95 % interval: Wilson's at the effective n of features that come in layers.
    `purity` and `recall` are means over the `n` features that have them, `purity_top` and `recall_top` over the
    `n_top`. `corrected`: of grade 0, the share without the errors that the judge made on planted features, in so far as
    the source's features are like those; None with a reason. `above_control`: the share less that of `control`.
    """

    source: str
    interpreter: str
    grade: int | None
    status: str
    label: str
    n: int
    n_features: int
    n_dead: int
    share: Estimate
    purity: Estimate | None
    recall: Estimate | None
    n_top: int
    share_top: Estimate
    purity_top: Estimate | None
    recall_top: Estimate | None
    paper_source: str | None
    paper_share: float | None
    corrected: Estimate | None = None
    reason: str | None = None
    control: str | None = None
    above_control: Estimate | None = None


@cached_query
def grades(connection: Connection, run_id: int) -> list[GradeRow]:
    """Shares of the grades among the features that each interpreter was shown."""
    printed, planted = claims(connection), planted_grades(connection, run_id)
    covered = coverages(connection, run_id)
    rows = []
    for (interpreter, source), graded in gradings(connection, run_id).items():
        alive = [g for g in graded if g.status != "dead"]
        paper = PAPER_SOURCES.get(source)
        for (grade, status), label in LABELS.items():
            hits = [outcome(g) == (grade, status) for g in alive]
            hits_top = [outcome_top(g) == (grade, status) for g in alive]
            if not alive or (not any(hits + hits_top) and status not in ("graded", "unparsed")):
                continue
            share = stats.clustered_share(hits, [g.layer for g in alive])
            corrected = Errors.of(planted.get(interpreter, [])).corrected(share, len(alive)) if grade == 0 else None
            means: dict[str, Any] = {
                f"{name}{which}": mean_over_features(numbers(covered, chosen, name))
                for which, own in (("", hits), ("_top", hits_top))
                for chosen in [[g for g, hit in zip(alive, own, strict=True) if hit]]
                for name in ("purity", "recall")
            }
            rows.append(
                GradeRow(
                    source=source,
                    interpreter=interpreter,
                    grade=grade,
                    status=status,
                    label=label,
                    n=sum(hits),
                    n_features=len(alive),
                    n_dead=len(graded) - len(alive),
                    share=share,
                    n_top=sum(hits_top),
                    share_top=stats.clustered_share(hits_top, [g.layer for g in alive]),
                    **means,
                    paper_source=paper,
                    paper_share=printed.get((f"grade/{grade}", str(paper))),
                    corrected=None if isinstance(corrected, stats.Undefined) else corrected,
                    reason=corrected.reason if isinstance(corrected, stats.Undefined) else None,
                )
            )
    return beside_controls(
        rows,
        controls(connection, run_id),
        same=lambda r: (r.interpreter, r.grade, r.status),
        number=lambda r: r.share,
    )


@dataclass(frozen=True)
class ShareRow:
    """The share of a source's features with grade 0 beside its control's."""

    source: str
    interpreter: str
    share: Estimate
    control: str | None = None
    above_control: Estimate | None = None


@cached_query
def monosemantic_shares(connection: Connection, run_id: int) -> list[ShareRow]:
    """Of each source and interpreter, without what the whole report has beside it."""
    rows = []
    for (interpreter, source), graded in gradings(connection, run_id).items():
        alive = [g for g in graded if g.status != "dead"]
        if alive:
            hits = [outcome(g) == (0, "graded") for g in alive]
            rows.append(ShareRow(source, interpreter, stats.clustered_share(hits, [g.layer for g in alive])))
    return beside_controls(rows, controls(connection, run_id), same=lambda r: r.interpreter, number=lambda r: r.share)


def _lead(rows: Sequence[GradeRow]) -> str:
    """In words whether more features are monosemantic than of the controls."""
    return " ".join(filter(None, (sentence(r, r.share, "features are monosemantic") for r in rows if r.grade == 0)))


REPORT = Report[GradeRow](
    "grades",
    "Grades: how monosemantic the explained features are",
    grades,
    (
        Column("source", lambda r: r.source, "left"),
        Column("grade", lambda r: f"{text(r.grade)} {r.label}", "left", wrap=True),
        Column("features", lambda r: f"{count(r.n)} of {count(r.n_features)}"),
        Column("dead", lambda r: count(r.n_dead), leaves=3),
        Column("share", lambda r: inline(r.share, percent)),
        Column("above control", above_cell),
        Column("corrected", lambda r: inline(r.corrected, percent), leaves=4),
        Column("purity", lambda r: inline(r.purity, percent), leaves=5),
        Column("top alone", lambda r: inline(r.share_top, percent), leaves=2),
        Column("paper", lambda r: percent(r.paper_share), leaves=1),
    ),
    ("interpret",),
    "explanations",
    order=140,
    label=lambda r: r.interpreter,
    legend=(
        "Grade on the highest contexts and on a sample over all strengths together; beside it, on the highest alone "
        "(the paper's). Purity: share of all of a feature's activation that its explanation covers, mean over the "
        "features of the row; recall is in --format json and in the report purity. Failed gradings stay in the "
        "denominator, dead features are counted beside it. 95 % intervals: Wilson at the "
        "effective n, layers being clusters, with Student's quantile. Corrected: by the judge's errors on planted "
        "features (Rogan-Gladen, interval by Lang and Reiczigel), as if the source's features were like the planted "
        "ones, all kinds in equal parts. " + LEGEND
    ),
    blocks=lambda rows: [
        Block(f"graded by {name}", [r for r in rows if r.interpreter == name])
        for name in dict.fromkeys(r.interpreter for r in rows)
    ],
    lead=_lead,
    after=("purity", "grade-tests"),
)
