"""The paper card: each sentence of the paper, clause by clause, with a verdict by the rules of `card.verdicts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, select

from harness.contract.cells import Cell, count, fixed, p_value, significant, text, with_interval
from harness.contract.report import Block, Column, Report
from harness.interpretation.agreement import benjamini_hochberg
from harness.paper.claims import Clause, Sentence, paper
from harness.records.base import Estimate
from harness.reports.card.clauses import Case, cases_of
from harness.reports.card.verdicts import (
    Verdict,
    conjunction,
    exactly_one,
    judge_alike,
    judge_direction,
    verdict_cell,
)
from harness.reports.common.run import of_papers_model
from harness.store.schema import StudyRun

CONTROL = "control"


@dataclass(frozen=True)
class PaperRow:
    """A sentence of the paper, one of its clauses, or one case of a clause (`level`), and what this run says about it.

    A clause with one case alone is one row. `ours` is the number that decides, with its 95 % interval; `ours_is` says
    what it is. `p_value` is two-sided; `p_adjusted` is what the verdict goes by: corrected by Benjamini and Hochberg
    (1995) over the `family`, and where another report corrects the same test, the larger of both. `same_model`: whether
    the run's model is the paper's.
    """

    place: str
    sentence: str
    level: Literal["sentence", "clause", "case"]
    claim: str
    subject: str | None
    ours: Estimate | None
    ours_n: int | None
    ours_is: str | None
    p_value: float | None
    p_adjusted: float | None
    family: str | None
    verdict: str
    reason: str | None
    same_model: bool
    model: str | None


@dataclass(frozen=True)
class _Judged:
    """A case with its corrected p-value, the family that it was corrected in, and the verdict."""

    case: Case
    p_adjusted: float | None
    family: str | None
    verdict: Verdict


def paper_card(connection: Connection, run_id: int) -> list[PaperRow]:
    """Every sentence in the order of its pages, each followed by its clauses, and then the controls."""
    model = connection.execute(select(StudyRun.model).where(StudyRun.id == run_id)).scalar_one()
    card = paper()
    same_model = card.is_model(model)
    rows: list[PaperRow] = []
    for sentences, family in ((card.sentences, "the paper's direction claims"), (card.controls, "the controls")):
        clauses = [clause for sentence in sentences for clause in sentence.clauses]
        tested = [clause for clause in clauses if same_model or not clause.papers_model_only]
        found = {clause: cases_of(clause, connection, run_id) for clause in tested}
        judged = _judge(found, family)
        for sentence in sentences:
            rows += _rows(sentence, judged, found, model, same_model)
    return rows


def _judge(found: dict[Clause, list[Case] | str], family: str) -> dict[Clause, list[_Judged]]:
    """Every case with its verdict; p-values are corrected over all cases that have one."""
    pairs = [(clause, case) for clause, cases in found.items() if not isinstance(cases, str) for case in cases]
    tested = [case.p_value for _, case in pairs if case.p_value is not None]
    corrected = iter(benjamini_hochberg(tested))
    named = f"Benjamini-Hochberg over {len(tested)} tests of {family}"
    judged: dict[Clause, list[_Judged]] = {clause: [] for clause in found}
    for clause, case in pairs:
        if case.ours is None:
            verdict = _Judged(case, None, None, Verdict("not resolved", case.reason))
        elif case.p_value is None:
            verdict = _Judged(case, None, None, judge_alike(case.ours, clause.margin))
        else:
            p = max(next(corrected), case.p_elsewhere or 0.0)
            of_both = f"{named}, and of grade-tests" if case.p_elsewhere is not None else named
            verdict = _Judged(case, p, of_both, judge_direction(case.ours, p, above=case.above))
        judged[clause].append(verdict)
    return judged


def _rows(
    sentence: Sentence, judged: dict[Clause, list[_Judged]], found: dict[Clause, list[Case] | str], model: str | None,
    same_model: bool,
) -> list[PaperRow]:  # fmt: skip
    def row(
        level: Literal["sentence", "clause", "case"], claim: str, verdict: Verdict, of: _Judged | None = None
    ) -> PaperRow:
        case = of.case if of else None
        return PaperRow(
            place=sentence.place,
            sentence=sentence.text,
            level=level,
            claim=claim,
            subject=case.subject if case else None,
            ours=case.ours if case else None,
            ours_n=case.n if case else None,
            ours_is=case.what if case else None,
            p_value=case.p_value if case else None,
            p_adjusted=of.p_adjusted if of else None,
            family=of.family if of else None,
            verdict=verdict.word,
            reason=verdict.reason,
            same_model=same_model,
            model=model,
        )

    parts: list[tuple[str, Verdict]] = []
    below: list[PaperRow] = []
    for clause in sentence.clauses:
        cases = judged.get(clause, [])
        verdict = _clause_verdict(clause, cases, found.get(clause))
        parts.append((clause.says, verdict))
        if len(cases) == 1:
            below.append(row("clause", clause.says, verdict, cases[0]))
        else:
            below.append(row("clause", clause.says, verdict))
            below += [row("case", clause.says, case.verdict, case) for case in cases]
    whole = conjunction([(says, verdict.word) for says, verdict in parts])
    return [row("sentence", sentence.text, whole), *below]


def _clause_verdict(clause: Clause, cases: Sequence[_Judged], found: list[Case] | str | None) -> Verdict:
    if found is None:
        return Verdict("other model: not judged")
    if isinstance(found, str):
        return Verdict("not tested", found)
    words = [case.verdict.word for case in cases]
    if clause.cases == "one":
        return exactly_one(words)
    if len(cases) == 1:
        return cases[0].verdict
    return conjunction([(str(case.case.subject), case.verdict.word) for case in cases])


def _claim(row: PaperRow) -> str:
    if row.level == "sentence":
        return row.sentence if row.place == CONTROL else f'{row.place}: "{row.sentence}"'
    if row.level == "case":
        return f"  - {row.subject}"
    return f"* {row.claim}" + (f" ({row.subject})" if row.subject else "")


def _ours(row: PaperRow) -> Cell:
    if row.ours is None:
        return ""
    return with_interval(row.ours, significant if "nats" in str(row.ours_is) else fixed)


def _blocks(rows: Sequence[PaperRow]) -> list[Block[PaperRow]]:
    """The paper's sentences and the controls, each with how many sentences have which verdict."""
    titled = []
    for noun, group in (
        ("Sentences", [r for r in rows if r.place != CONTROL]),
        ("Controls that they need", [r for r in rows if r.place == CONTROL]),
    ):
        words = [r.verdict for r in group if r.level == ("sentence" if noun == "Sentences" else "clause")]
        tally = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        titled.append(Block(f"{noun}: {tally}", group))
    return titled


def _model_sentence(rows: Sequence[PaperRow]) -> str:
    """Whether the run's model is the paper's, plainly."""
    if rows[0].same_model:
        return f"This run's model is the paper's: {rows[0].model}."
    return (
        f"This is another model ({text(rows[0].model)}), not the paper's {paper().model}: what its sentences say is "
        "tested, its numbers are not judged."
    )


REPORT = Report[PaperRow](
    "paper",
    "The paper's sentences",
    paper_card,
    (
        Column("claim", _claim, "left", wrap=True, ratio=1),
        Column("ours", _ours),
        Column("n", lambda r: count(r.ours_n) if r.ours_n is not None else ""),
        Column("p (BH)", lambda r: p_value(r.p_adjusted) if r.p_adjusted is not None else ""),
        Column("verdict", lambda r: verdict_cell(r.verdict), "left"),
    ),
    ("evaluate", "train", "probe", "learn", "interpret", "ablate"),
    "sentences",
    order=220,
    label=lambda r: f"{r.claim}, {r.subject}" if r.subject else r.claim,
    legend=(
        "A sentence is as good as the worst of its clauses (*), a clause as the worst of its cases (-). Ours: the "
        "difference (or recovery) that decides, the claimed side first, with its 95 % interval; JSON and CSV say of "
        "what. Consistent: p (BH) is below .05 and the interval lies on the claimed side. Contradicted: the same on "
        "the other side. Else not resolved. About as often: the 90 % interval of the difference lies within 10 "
        "points (two one-sided tests). p: exact McNemar test for scores, permutation for grades, t for KL and "
        "recovery; two-sided. KL: over the response's tokens (trace and answer). BH: corrected after Benjamini and "
        "Hochberg over all of the paper's direction claims that this run tests, over the controls apart: of the "
        "clauses found consistent or contradicted, 1 in 20 at most is expected to be wrong. Where the report "
        "grade-tests corrects the same test, the larger p counts. One task: exactly one benchmark must show it."
    ),
    blocks=_blocks,
    lead=_model_sentence,
    after=("paper-numbers", "deviations"),
    unasked=of_papers_model,
)
