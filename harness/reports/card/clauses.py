"""How a clause of the paper is tested: by which of the run's numbers, each with its interval and p-value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from harness import stats
from harness.paper.claims import Clause
from harness.records.base import Estimate
from harness.reports.common.benchmarks import item_scores, of_answers, paired_scores
from harness.reports.common.controls import controls
from harness.reports.common.differences import (
    group_difference,
    independent_difference,
    mean_difference,
    paired_difference,
)
from harness.reports.components import ComponentRow, components
from harness.reports.grade_tests import grade_tests
from harness.reports.grades import grades
from harness.reports.recovery import recovery
from harness.reports.steer import Curve, Point, curves

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "out_proj", "attn.c_proj")
"""Projections that belong to attention; the others count as MLP."""

MAJORITY = 0.5
"""Recovery above which the adapter has `most` of the gain."""


@dataclass(frozen=True)
class Case:
    """What one clause is tested by, once.

    Attributes:
        subject: the benchmark or the grader; None where there is one case alone.
        ours: the number that decides, e.g. a difference whose claimed side is positive; None where the data bound none.
        n: items, features, layers or components.
        what: what `ours` is, in words.
        p_value: two-sided, of `ours` being `above`; None where two shares are to be alike.
        p_elsewhere: corrected p-value that another report shows for the same test.
        above: the claimed side of `ours` is above it.
        reason: why `ours` is None.
    """

    subject: str | None
    ours: Estimate | None
    n: int
    what: str
    p_value: float | None
    p_elsewhere: float | None = None
    above: float = 0.0
    reason: str | None = None


def cases_of(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    """The cases that the run has for a clause, or why there are none."""
    if clause.test is None:
        return str(clause.reason)
    return TESTS[clause.test](clause, connection, run_id)


def marked(what: str, engines_differ: bool) -> str:
    """What a number is; said there where it compares answers of different engines."""
    return f"{what} (different engines)" if engines_differ else what


def _recovers_most(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    """Recovery above a half is the adapter above the middle of base and full, paired by item."""
    cases = []
    scores = item_scores(connection, run_id)
    for r in recovery(connection, run_id):
        if not of_answers(r.benchmark):
            continue
        if r.recovery is None and r.base and r.adapter and r.full:
            cases.append(Case(r.benchmark, None, r.n_items, "recovery", None, reason=r.reason))
        elif r.recovery is not None:
            trio = paired_scores({v: scores[r.benchmark][v] for v in ("base", "adapter", "full")}).scores
            beyond = [a - (b + f) / 2 for b, a, f in zip(trio["base"], trio["adapter"], trio["full"], strict=True)]
            what, p = marked("recovery", r.engines_differ), mean_difference(beyond).p_value
            cases.append(Case(r.benchmark, r.recovery, r.n_items, what, p, above=MAJORITY))
    return cases or "this run has no recovery: it lacks a full fine-tune or benchmarks"


def _scores_above(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    first, second = map(str, clause.of)
    cases = []
    for benchmark, variants in item_scores(connection, run_id).items():
        if first in variants and second in variants and of_answers(benchmark):
            paired = paired_scores({v: variants[v] for v in (first, second)})
            x, y = paired.scores[first], paired.scores[second]
            if x:
                what, p = marked(f"score, {first} - {second}", paired.engines_differ), stats.mcnemar_exact(x, y)
                cases.append(Case(benchmark, paired_difference(x, y), len(x), what, p))
    return cases or f"this run has no benchmark answers of both {first} and {second}"


def _grades_above(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    """The permutation test of the report grade-tests, and its corrected p-value: of the paper's grades (`top`).

    `control` in the claim stands for the run's control of the first source.
    """
    first, second = map(str, clause.of)
    if second == "control":
        second = controls(connection, run_id).get(first, "")
        if not second:
            return f"this run has no control of {first}"
    monosemantic = {(g.interpreter, g.source): g for g in grades(connection, run_id) if g.grade == 0}
    tests = {
        (t.interpreter, frozenset((t.source, t.other_source))): t
        for t in grade_tests(connection, run_id)
        if t.grade == 0 and t.graded_on == "top"
    }
    cases = []
    for interpreter in dict.fromkeys(i for i, _ in monosemantic):
        a, b = (monosemantic.get((interpreter, source)) for source in (first, second))
        test = tests.get((interpreter, frozenset((first, second))))
        if a is not None and b is not None:
            p, corrected = (test.p_value, test.p_holm) if test else (1.0, 1.0)  # no test: nobody has the grade
            what, n = f"share of grade 0 by the highest contexts, {first} - {second}", a.n_features + b.n_features
            ours = independent_difference(a.share_top, b.share_top)
            cases.append(Case(f"graded by {interpreter}", ours, n, what, p, corrected))
    missing = [s for s in (first, second) if not any(source == s for _, source in monosemantic)]
    return cases or f"this run has no graded features of {' and '.join(missing) or 'both by one interpreter'}"


def _grades_alike(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    cases = _grades_above(clause, connection, run_id)
    return cases if isinstance(cases, str) else [Case(c.subject, c.ours, c.n, c.what, None) for c in cases]


_NO_SINGLES = "this run switched off no single components of both kinds"


def _by_projection(connection: Connection, run_id: int) -> dict[str, dict[int, float]]:
    """Projection -> layer -> KL of the single component, of the first mode that was measured."""
    singles = [
        r
        for r in components(connection, run_id)
        if r.scope == "component" and r.projection is not None and r.layer is not None
    ]
    found: dict[str, dict[int, float]] = {}
    for r in singles:
        if r.mode == singles[0].mode:
            found.setdefault(str(r.projection), {})[int(r.layer or 0)] = r.kl_nats.value
    return found


def _mlp_above_attention(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    by_projection = _by_projection(connection, run_id)
    attention = [kl for p, layers in by_projection.items() if p in ATTENTION for kl in layers.values()]
    mlp = [kl for p, layers in by_projection.items() if p not in ATTENTION for kl in layers.values()]
    if not attention or not mlp:
        return _NO_SINGLES
    return [Case(None, *_groups(mlp, attention, "mean KL, MLP - attention (nats)"))]


def _projection_strongest(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    """A projection minus the strongest of the others, paired by layer."""
    by_projection, name = _by_projection(connection, run_id), str(clause.of[0])
    own = by_projection.pop(name, None)
    if not own or not by_projection:
        return _NO_SINGLES
    rival = max(by_projection, key=lambda p: sum(by_projection[p].values()) / len(by_projection[p]))
    differences = [own[x] - by_projection[rival][x] for x in own if x in by_projection[rival]]
    if not differences:
        return f"{name} and {rival} were switched off in no layer in common"
    difference, p = mean_difference(differences)
    return [Case(None, difference, len(differences), f"mean KL, {name} - {rival} (nats, by layer)", p)]


def _layers(connection: Connection, run_id: int) -> list[ComponentRow]:
    layers = [r for r in components(connection, run_id) if r.scope == "layer"]
    return sorted((r for r in layers if r.mode == layers[0].mode), key=lambda r: int(r.layer or 0))


def _later_layers_above(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    kl = [r.kl_nats.value for r in _layers(connection, run_id)]
    half = len(kl) // 2
    if half == 0:
        return "this run switched off fewer than two whole layers"
    return [Case(None, *_groups(kl[half:], kl[:half], "mean KL, later - earlier half of the layers (nats)"))]


def _named_layers_above(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    layers = _layers(connection, run_id)
    named = [r.kl_nats.value for r in layers if r.layer in clause.of]
    others = [r.kl_nats.value for r in layers if r.layer not in clause.of]
    if len(named) < len(clause.of) or not others:
        return "this run did not switch off these layers and others"
    return [Case(None, *_groups(named, others, "mean KL, these layers - the others (nats)"))]


def _groups(a: Sequence[float], b: Sequence[float], what: str) -> tuple[Estimate, int, str, float]:
    difference, p = group_difference(a, b)
    return difference, len(a) + len(b), what, p


def _steered(connection: Connection, run_id: int, quantity: str, where: str) -> dict[str, list[tuple[Curve, Point]]]:
    """Feature -> its pushes that have a control, those of gain 1 and of no known size apart."""
    found: dict[str, list[tuple[Curve, Point]]] = {}
    for curve in curves(connection, run_id):
        if (curve.first.quantity, curve.first.where) == (quantity, where) and curve.first.kind != "group":
            rest = 1.0 if curve.first.push == "gain" else 0.0
            points = [(curve, p) for p in curve.points if p.excess and p.times_normal and p.size != rest]
            found.setdefault(curve.first.feature, []).extend(points)
    return {feature: points for feature, points in found.items() if points}


def _push_in_words(curve: Curve, point: Point) -> str:
    return f"{curve.first.push} {point.size:g}, {point.times_normal or 0:.3g} times its normal activation"


_NOT_STEERED = "this run steered no latent and no component against controls there"


def _steered_no_more(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    """Up to so many times its normal activation: the weakest push with an effect, else the strongest there is.

    The p-values are corrected over all pushes of the report steer, so that choosing one is paid for.
    """
    quantity, most = str(clause.of[0]), float(clause.of[1])
    cases = []
    for feature, points in _steered(connection, run_id, quantity, "text").items():
        within = sorted((x for x in points if (x[1].times_normal or 0) <= most), key=lambda x: x[1].times_normal or 0)
        if not within:
            continue
        curve, point = next((x for x in within if x[1].effect), within[-1])
        assert point.excess is not None
        e, name = point.excess, "KL" if quantity == "kl" else quantity
        ours = Estimate(-e.value, -e.high, -e.low, e.n)
        what = f"{name}, its nearest control - itself ({_push_in_words(curve, point)})"
        cases.append(Case(feature, ours, point.n_documents, what, point.p_value, point.p_holm))
    return cases or _NOT_STEERED


def _steered_more(clause: Clause, connection: Connection, run_id: int) -> list[Case] | str:
    """The strongest push while answers are written."""
    quantity = str(clause.of[0])
    cases = []
    for feature, points in _steered(connection, run_id, quantity, "generated").items():
        curve, point = max(points, key=lambda x: x[1].times_normal or 0)
        what = f"{quantity} per answer, itself - its nearest control ({_push_in_words(curve, point)})"
        cases.append(Case(feature, point.excess, point.n_documents, what, point.p_value, point.p_holm))
    return cases or _NOT_STEERED


TESTS: dict[str, Callable[[Clause, Connection, int], list[Case] | str]] = {
    "recovers_most": _recovers_most,
    "scores_above": _scores_above,
    "grades_above": _grades_above,
    "grades_alike": _grades_alike,
    "mlp_above_attention": _mlp_above_attention,
    "projection_strongest": _projection_strongest,
    "later_layers_above": _later_layers_above,
    "named_layers_above": _named_layers_above,
    "steered_no_more": _steered_no_more,
    "steered_more": _steered_more,
}
"""Name in claims.yaml -> what finds its cases."""
