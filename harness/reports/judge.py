"""How far grades and explanations can be believed: planted features, agreement, right classes, categories again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from sqlalchemy import Connection, select

from harness import stats
from harness.contract.cells import count, fixed, inline, percent
from harness.contract.report import Block, Column, Report
from harness.interpretation import agreement
from harness.interpretation.naming import named_classes
from harness.records import PlantedKind
from harness.records.base import Estimate
from harness.reports.common.features import Explained, category_assignments, coverages, explanations
from harness.reports.common.grades import LABELS, mean_over_features, numbers, outcome, outcome_top
from harness.reports.common.planted import Errors, PlantedGrade, densities, planted_grades
from harness.reports.common.rows import run_steps
from harness.store.schema import CategoryTrial, Enrichment, JudgeTrial, Step

ONE_CLASS = 0.8
"""A feature is of one class of tokens where it holds this share of its exemplars."""


CERTAIN = "deterministic: agrees with itself by construction"
"""Instead of a coefficient, where a judge is declared to answer the same contexts alike."""
_BANDS = ((0.0, 0.01), (0.01, 0.1), (0.1, 1.0))
"""Densities at which planted features are counted together."""


@dataclass(frozen=True)
class JudgeRow:
    """One measure of how far a judge can be believed.

    `verdict`: how many of all planted features got the right grade; in words, whether that is more than a judge
    gets that gives all of them the same grade (`blind`: on which share that one would be right). `planted`: how
    planted features of a kind were graded, one row per outcome, with the range of their densities; `density`: how
    many of a range of densities were graded rightly; `confusion`: planted grade against the one given; `error`:
    sensitivity and specificity for grade 0, by which the grades report corrects its shares. `agreement`: kappa
    between the first grading and those made again (Fleiss; Cohen for another judge), failures as a class of their
    own. `right class`: explanations of features that are of one ground-truth class, by what they name. `categories
    again`: adjusted Rand index of the categories of a re-run with other explanations; 1 is the same partition, 0 is
    chance. `n_top` and `value_top` are of the grade on the highest contexts alone; `purity` and `recall` are means
    over the planted features.
    """

    interpreter: str
    measure: str
    subject: str
    outcome: str
    right: bool | None
    n: int | None
    n_features: int
    value: Estimate | None
    unit: str
    reason: str | None
    n_top: int | None = None
    value_top: Estimate | None = None
    purity: Estimate | None = None
    recall: Estimate | None = None
    blind: float | None = None


def judge(connection: Connection, run_id: int) -> list[JudgeRow]:
    """Every measure of every judge."""
    by_interpreter: dict[str, list[Explained]] = defaultdict(list)
    for e in explanations(connection, run_id):
        by_interpreter[e.interpreter].append(e)
    planted = planted_grades(connection, run_id)
    rows: list[JudgeRow] = []
    for interpreter, graded in by_interpreter.items():
        covered = coverages(connection, run_id)
        rows += [_with_means(row, of, covered) for row, of in _planted(interpreter, planted.get(interpreter, []))]
        rows += _agreement(connection, run_id, interpreter, graded)
        rows += _right_class(connection, run_id, interpreter, graded)
        rows += _categories_again(connection, run_id, interpreter)
    return rows


def _with_means(row: JudgeRow, planted: Sequence[PlantedGrade], covered: Mapping[Any, Any]) -> JudgeRow:
    """The row with the purity and recall of the planted features that it is of."""
    graded = [p.explained for p in planted]
    purity, recall = (mean_over_features(numbers(covered, graded, name)) for name in ("purity", "recall"))
    return replace(row, purity=purity, recall=recall)


def _planted(interpreter: str, planted: Sequence[PlantedGrade]) -> Iterator[tuple[JudgeRow, Sequence[PlantedGrade]]]:
    """In all, by kind, density and right grade; of outcomes, empty ones are left out but for the right one."""
    if not planted:
        return
    yield _verdict(interpreter, planted), planted
    for kind in get_args(PlantedKind):
        of_kind = [p for p in planted if p.kind == kind]
        if of_kind:
            subject = f"{kind}, {densities(of_kind)}"
            yield from _outcomes(interpreter, "planted", subject, of_kind, of_kind[0].right)
        else:
            why = "none planted: the corpus has nothing of the kind that is frequent enough"
            yield JudgeRow(interpreter, "planted", kind, "-", None, 0, 0, None, "share", why), ()
    for low, high in _BANDS:
        of_band = [p for p in planted if low <= p.density < high]
        if of_band:
            subject, n = f"{100 * low:g} to {100 * high:g} % of tokens", len(of_band)
            hits = sum(p.grade == p.right for p in of_band)
            hits_top = sum(p.explained.grade_top == p.right for p in of_band)
            yield JudgeRow(interpreter, "density", subject, "the right grade", True, hits, n, stats.share(hits, n),
                           "share", None, hits_top, stats.share(hits_top, n)), of_band  # fmt: skip
    for right in sorted({p.right for p in planted}):
        of_grade = [p for p in planted if p.right == right]
        yield from _outcomes(interpreter, "confusion", f"planted {right} {LABELS[right, 'graded']}", of_grade, right)
    errors = Errors.of(planted)
    for name, named, hits, n in (
        ("sensitivity", "planted 0 and graded 0", errors.n_found, errors.n_monosemantic),
        ("specificity", "not planted 0 and not graded 0", errors.n_refused, errors.n_others),
    ):
        if n:
            yield JudgeRow(interpreter, "error", name, named, True, hits, n, stats.share(hits, n), "share", None), ()


def _verdict(interpreter: str, planted: Sequence[PlantedGrade]) -> JudgeRow:
    """All planted features; a grading that failed is a wrong one."""
    n, blind = len(planted), max(Counter(p.right for p in planted).values()) / len(planted)
    hits = None if all(p.status == "top-only" for p in planted) else sum(p.grade == p.right for p in planted)
    hits_top = sum(p.explained.grade_top == p.right for p in planted)
    value, value_top = (None if h is None else stats.share(h, n) for h in (hits, hits_top))
    return JudgeRow(interpreter, "verdict", "all planted", "the right grade", True, hits, n, value, "share", None,
                    hits_top, value_top, blind=blind)  # fmt: skip


def _in_words(row: JudgeRow) -> str:
    """Whether a judge is right more often than one that does not look at the features."""
    share = row.value or row.value_top
    better = share is not None and share.low is not None and row.blind is not None and share.low > row.blind
    words = "is right more often than" if better else "is NOT TO BE BELIEVED: not shown to be right more often than"
    return f"{row.interpreter} {words} one grade for all ({percent(row.blind)})"


def _outcomes(
    interpreter: str, measure: str, subject: str, planted: Sequence[PlantedGrade], right: int
) -> Iterator[tuple[JudgeRow, Sequence[PlantedGrade]]]:
    n, graded = len(planted), [p.explained for p in planted]
    counts, counts_top = Counter(map(outcome, graded)), Counter(map(outcome_top, graded))
    for key, label in {**LABELS, (None, "dead"): "dead"}.items():
        is_right = key == (right, "graded")
        if counts[key] or counts_top[key] or is_right:
            name = label if key[0] is None else f"{key[0]} {label}"
            share, share_top = stats.share(counts[key], n), stats.share(counts_top[key], n)
            yield JudgeRow(interpreter, measure, subject, name, is_right, counts[key], n, share, "share", None,
                           counts_top[key], share_top), planted  # fmt: skip


def _agreement(
    connection: Connection, run_id: int, interpreter: str, graded: Sequence[Explained]
) -> Iterator[JudgeRow]:
    t = JudgeTrial
    first = {(g.source, g.feature): (g.grade, g.grade_top) for g in graded}
    trials = connection.execute(
        select(t.source, t.feature, t.condition, t.trial, t.grade, t.grade_top, t.status, t.deterministic)
        .where(t.step_id.in_(run_steps(run_id)), t.interpreter == interpreter)
        .order_by(t.id)
    )
    again: dict[str, dict[tuple[str, str], dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    certain: dict[str, bool] = {}
    for r in trials:
        if (r.source, r.feature) in first:
            again[r.condition][r.source, r.feature][r.trial] = r
            certain[r.condition] = bool(r.deterministic)
    for condition, features in again.items():
        n_trials = max(len(grades) for grades in features.values())
        of_all = {name: list(rows.values()) for name, rows in features.items() if len(rows) == n_trials}
        both, top = (
            _kappa(condition, [[first[name][i], *(getattr(r, field) for r in rows)] for name, rows in of_all.items()])
            for i, field in enumerate(("grade", "grade_top"))
        )
        on_both = not all(r.status in ("top-only", "dead") for rows in of_all.values() for r in rows)
        kappa = both[0] if on_both else stats.Undefined("graded again on the highest contexts alone")
        named, is_certain = f"{n_trials + 1} gradings, all the same", certain[condition] and on_both
        row = _coefficient(kappa, interpreter, "agreement", condition, named, both[1], len(of_all), "kappa", is_certain)
        value_top = None if isinstance(top[0], stats.Undefined) else top[0]
        if certain[condition] and top[1] == len(of_all):
            value_top = None
        yield replace(row, n=both[1] if on_both else None, n_top=top[1], value_top=value_top)


def _kappa(condition: str, ratings: list[list[int | None]]) -> tuple[Estimate | stats.Undefined, int]:
    """Kappa of gradings (Cohen's of two judges, Fleiss' of one), and how many features got the same one each time."""
    kappa = (
        agreement.cohen_kappa([(a, b) for a, b in ratings])
        if condition in ("second-judge", "explainer")
        else agreement.fleiss_kappa(ratings)
    )
    return kappa, sum(len(set(case)) == 1 for case in ratings)


def _right_class(
    connection: Connection, run_id: int, interpreter: str, graded: Sequence[Explained]
) -> Iterator[JudgeRow]:
    """Of the features that are of one class: how many explanations name it, another one, or none."""
    e = Enrichment
    of_one_class = connection.execute(
        select(e.source, e.feature, e.top_class, e.step_id).where(
            e.step_id.in_(run_steps(run_id)), e.top_class.is_not(None), e.top_class_share >= ONE_CLASS
        )
    ).all()
    if not of_one_class:
        return
    config = connection.execute(select(Step.config_json).where(Step.id == of_one_class[0].step_id)).scalar_one()
    classes = {r.top_class for r in of_one_class} | set(config.get("class_words", {}))
    words = {c: config.get("class_words", {}).get(c) or (c.replace("_", " "),) for c in classes}
    truth = {(r.source, r.feature): r.top_class for r in of_one_class}
    by_source: dict[str, list[tuple[Explained, str]]] = defaultdict(list)
    for g in graded:
        if (g.source, g.feature) in truth and g.status != "dead":
            by_source[g.source].append((g, truth[g.source, g.feature]))
    for source, pairs in by_source.items():
        named = [_naming(g.explanation, right, words) for g, right in pairs]
        outcomes = Counter(named)
        for name in ("names the class", "names another", "names none", "no explanation"):
            is_right = name == "names the class"
            if outcomes[name] or is_right:
                hits = [n == name for n in named]
                share = stats.clustered_share(hits, [g.layer for g, _ in pairs])
                yield JudgeRow(interpreter, "right class", source, name, is_right, sum(hits), len(pairs), share,
                               "share", None)  # fmt: skip


def _naming(explanation: str | None, right: str, words: dict[str, Sequence[str]]) -> str:
    if explanation is None:
        return "no explanation"
    named = named_classes(explanation, words)
    return "names the class" if right in named else "names another" if named else "names none"


def _categories_again(connection: Connection, run_id: int, interpreter: str) -> Iterator[JudgeRow]:
    c = CategoryTrial
    again = connection.execute(
        select(c.source, c.feature, c.category, c.deterministic)
        .where(c.step_id.in_(run_steps(run_id)), c.interpreter == interpreter)
        .order_by(c.id)
    ).all()
    assignments = category_assignments(connection, run_id)
    first = {(a.source, a.feature): a.category for a in assignments if a.plugin == interpreter}
    pairs = [(first[r.source, r.feature], r.category) for r in again if (r.source, r.feature) in first]
    if not pairs:
        return
    index = agreement.jackknife(lambda some: agreement.adjusted_rand([p[0] for p in some], [p[1] for p in some]), pairs)
    same = sum(x == y for x, y in pairs)
    yield _coefficient(index, interpreter, "categories again", "all sources", "the same string_id", same, len(pairs),
                       "adjusted Rand index", all(r.deterministic for r in again))  # fmt: skip


def _coefficient(
    value: Estimate | stats.Undefined, interpreter: str, measure: str, subject: str, outcome: str, n: int,
    n_features: int, unit: str, certain: bool,
) -> JudgeRow:  # fmt: skip
    """A coefficient of agreement, or why there is none; a declaration of determinism that does not hold is told."""
    estimate, reason = (None, value.reason) if isinstance(value, stats.Undefined) else (value, None)
    if certain and n == n_features:
        estimate, reason = None, CERTAIN
    elif certain:
        reason = f"declared deterministic, but {n_features - n} of {n_features} differ"
    return JudgeRow(interpreter, measure, subject, outcome, None, n, n_features, estimate, unit, reason)


_MEASURES = {
    "verdict": "All planted features",
    "planted": "Planted features by kind and density, whose right grade is known (*)",
    "density": "Planted features by density: how many were given the right grade",
    "confusion": "Planted grade against the grade given (*: the right one)",
    "error": "Errors for grade 0, by which the grades report corrects its shares",
    "agreement": "Graded again: kappa with the first grading",
    "right class": "Features of one ground-truth class: what their explanations name (*: the right one)",
    "categories again": "Categories made and assigned again from another sample: adjusted Rand index",
}


def _blocks(rows: Sequence[JudgeRow]) -> list[Block[JudgeRow]]:
    blocks = [Block(title, [r for r in rows if r.measure == measure]) for measure, title in _MEASURES.items()]
    blocks[0] = Block(f"{blocks[0].title}: {'; '.join(map(_in_words, blocks[0].rows))}", blocks[0].rows)
    return [block for block in blocks if block.rows]


REPORT = Report[JudgeRow](
    "judge",
    "The judge: how far grades and explanations can be believed",
    judge,
    (
        Column("judge", lambda r: r.interpreter, "left"),
        Column("of", lambda r: r.subject, "left"),
        Column("outcome", lambda r: f"{r.outcome} *" if r.right else r.outcome, "left", wrap=True),
        Column("features", lambda r: f"{count(r.n)} of {count(r.n_features)}"),
        Column("value", lambda r: inline(r.value, percent if r.unit == "share" else fixed)),
        Column("top alone", lambda r: inline(r.value_top, percent if r.unit == "share" else fixed), leaves=3),
        Column("purity", lambda r: inline(r.purity, percent), leaves=2),
        Column("recall", lambda r: inline(r.recall, percent), leaves=1),
    ),
    ("regrade", "interpret"),
    "judgements of the judge",
    order=160,
    label=lambda r: f"{r.interpreter}, {r.subject}",
    legend=(
        "Planted: one token (right grade 0); what follows a token, a class of tokens, a place in the sentence (1, "
        "broad but consistent); two unlike tokens, random tokens, one token above any others (2); Wilson intervals. "
        "Kappa: 1 is perfect, 0 is chance; failures are a class of their own; bootstrap over features; "
        "explainer: its own grades against the judge's. Right class: where 80 % of a feature's exemplars are of one "
        "class of the corpus. Rand index: jackknife."
    ),
    blocks=_blocks,
)
