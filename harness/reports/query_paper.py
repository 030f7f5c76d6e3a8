"""The paper card: each of the paper's claims, ours beside it, and a verdict by the rule of `verdicts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from harness.reports.differences import group_difference, independent_difference, mean_interval, paired_difference
from harness.reports.query_ablations import ComponentRow, components
from harness.reports.query_benchmarks import ItemScores, groups, item_scores, paired_scores, recovery
from harness.reports.query_common import finite, own_steps, paper_names
from harness.reports.query_grades import GradeRow, grades
from harness.reports.verdicts import Verdict, judge_count, judge_equal, judge_number, judge_pattern, judge_top
from harness.stats import Estimate, share
from harness.store import claims as paper_claims
from harness.store.claims import PAPER_SOURCES, Claim, Paper, Pattern
from harness.store.schema import ActivationSet, Checkpoint, DictionaryScore, StudyRun

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "out_proj", "attn.c_proj")
"""Projections that belong to attention; the others count as MLP."""

MAJORITY = 0.5
"""Recovery above which the adapter has `most` of the gain."""

ROUNDING = 0.005
"""The paper prints shares that it gives no counts for as whole per cents."""

_DRAWS = 20_000


@dataclass(frozen=True)
class PaperRow:
    """A claim of the paper and what this run says about it. Intervals are 95 %; the paper prints none.

    `paper_ci_low` and `paper_ci_high` are computed from the paper's counts, unpaired. `ours` is in the claim's unit;
    for a pattern it is the difference (or share) that decides, `ours_is` says of what. `same_model`: whether the run's
    model is the paper's.
    """

    place: str
    claim: str
    subject: str | None
    unit: str
    paper_value: float | None
    paper_ci_low: float | None
    paper_ci_high: float | None
    paper_n: int | None
    ours: float | None
    ours_ci_low: float | None
    ours_ci_high: float | None
    ours_n: int | None
    ours_is: str | None
    verdict: str
    reason: str | None
    same_model: bool
    model: str | None


@dataclass(frozen=True)
class Found:
    """What this run has for a claim: an interval, of how many cases, and what it is in words."""

    interval: Estimate
    n: int
    what: str


class _Run:
    """A run's rows that claims are judged by, each queried once."""

    def __init__(self, connection: Connection, run_id: int) -> None:
        self.paper: Paper = paper_claims.paper()
        self.model = connection.execute(select(StudyRun.model).where(StudyRun.id == run_id)).scalar_one()
        self.same_model = self.paper.is_model(self.model)
        self.names = paper_names(connection, run_id)
        self.recoveries = recovery(connection, run_id)
        self.groups = groups(connection, run_id)
        self.components = components(connection, run_id)
        self.grades = grades(connection, run_id)
        self.scores = item_scores(connection, run_id)
        steps = own_steps(run_id)
        columns = (ActivationSet.source, ActivationSet.projections_json)
        self.sets = connection.execute(select(*columns).where(ActivationSet.step_id.in_(steps))).all()
        columns_ = (Checkpoint.kind, Checkpoint.n_parameters)
        self.checkpoints = connection.execute(select(*columns_).where(Checkpoint.step_id.in_(steps))).all()
        named = (DictionaryScore.name, DictionaryScore.n_latents, DictionaryScore.n_alive)
        self.dictionaries = connection.execute(select(*named).where(DictionaryScore.step_id.in_(steps))).all()

    def benchmarks(self, paper_name: str) -> list[str]:
        """Our benchmarks that stand for one of the paper's."""
        return [ours for ours, name in self.names.items() if name == paper_name]


def paper_card(connection: Connection, run_id: int) -> list[PaperRow]:
    """Every claim of the paper in the order of its pages: numbers, then patterns, then what is not tested."""
    run = _Run(connection, run_id)
    rows = [row for claim in run.paper.numbers for row in _number_rows(run, claim)]
    rows.append(_top_layers(run))
    rows += [row for pattern in run.paper.patterns for row in _pattern_rows(run, pattern)]
    untested = [
        _row(run, p.place, p.statement, None, "claim", Verdict("not tested", p.reason)) for p in run.paper.untested
    ]
    return rows + untested


def _row(
    run: _Run, place: str, claim: str, subject: str | None, unit: str, verdict: Verdict, *,
    paper: Estimate | None = None, paper_n: int | None = None, ours: Found | None = None, missing: str | None = None,
) -> PaperRow:  # fmt: skip
    interval = ours.interval if ours else None
    return PaperRow(
        place=place,
        claim=claim,
        subject=subject,
        unit=unit,
        paper_value=paper.value if paper else None,
        paper_ci_low=finite(paper.low) if paper and paper.low < paper.high else None,
        paper_ci_high=finite(paper.high) if paper and paper.low < paper.high else None,
        paper_n=paper_n,
        ours=interval.value if interval else None,
        ours_ci_low=finite(interval.low) if interval and interval.low < interval.high else None,
        ours_ci_high=finite(interval.high) if interval and interval.low < interval.high else None,
        ours_n=ours.n if ours else None,
        ours_is=ours.what if ours else None,
        verdict=verdict.word,
        reason=verdict.reason if ours or verdict.reason else missing,
        same_model=run.same_model,
        model=run.model,
    )


# numbers


def _number_rows(run: _Run, claim: Claim) -> Iterator[PaperRow]:
    paper = _paper_interval(run.paper.numbers, claim)
    found: Sequence[Found | None] = _ours(run, claim) or [None]
    for ours in found:
        interval = ours.interval if ours else None
        if claim.unit == "count":
            tolerance = 0.1 if claim.comment == "roughly" else 0.0
            verdict = judge_count(interval.value if interval else None, claim.value, same_model=run.same_model,
                                  tolerance=tolerance)  # fmt: skip
        else:
            verdict = judge_number(interval, paper, same_model=run.same_model)
        yield _row(run, claim.place, claim.quantity, claim.subject, claim.unit, verdict, paper=paper, paper_n=claim.n,
                   ours=ours, missing="this run has no such number")  # fmt: skip


def _ours(run: _Run, claim: Claim) -> list[Found]:
    kind, _, part = claim.quantity.partition("/")
    if kind in ("score", "recovery", "share_of_adapter_gap"):
        found = [_benchmark_number(run, kind, part, name) for name in run.benchmarks(claim.subject)]
        return [f for f in found if f is not None]
    if kind == "grade":
        own = [g for g in run.grades if g.paper_source == claim.subject and str(g.grade) == part]
        return [Found(_share(g), g.n_features, f"{g.source} by {g.interpreter}") for g in own]
    return [Found(Estimate(value, value, value), 1, what) for value, what in _counts(run, claim)]


def _counts(run: _Run, claim: Claim) -> list[tuple[int, str]]:
    if claim.quantity == "n_components":
        matrices = [str(p) for s in run.sets if s.source == "adapter-activations" for p in s.projections_json]
        own = [p for p in matrices if claim.subject == "all" or (p in ATTENTION) == (claim.subject == "attention")]
        return [(len(own), "matrices with an adapter")] if matrices else []
    if claim.quantity == "n_parameters":
        return [(c.n_parameters, "trained parameters") for c in run.checkpoints if c.kind == "adapter"]
    return [
        (getattr(d, claim.quantity), d.name) for d in run.dictionaries if PAPER_SOURCES.get(d.name) == claim.subject
    ]


def _benchmark_number(run: _Run, kind: str, part: str, benchmark: str) -> Found | None:
    if kind == "recovery" or part in ("base", "adapter", "full"):
        for r in run.recoveries:
            name = part or "recovery"
            if r.benchmark == benchmark and getattr(r, name) is not None:
                bounds = getattr(r, f"{name}_ci_low"), getattr(r, f"{name}_ci_high")
                what = _marked(benchmark, not part and r.engines_differ)
                return Found(_interval(getattr(r, name), *bounds), r.n_items, what)
        return None
    group = part.removeprefix("without-")
    names = ("score", "score_ci_low", "score_ci_high") if kind == "score" else (
        "share_of_adapter_gap", "share_ci_low", "share_ci_high")  # fmt: skip
    for g in run.groups:
        if (g.group, g.benchmark) == (group, benchmark) and getattr(g, names[0]) is not None:
            what = _marked(benchmark, kind != "score" and g.engines_differ)
            return Found(_interval(*(getattr(g, n) for n in names)), g.n_items or 0, what)
    return None


def _marked(what: str, engines_differ: bool) -> str:
    """What a number is; said there where it compares answers of different engines."""
    return f"{what} (different engines)" if engines_differ else what


def _interval(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value, -math.inf if low is None else low, math.inf if high is None else high)


def _paper_interval(numbers: Sequence[Claim], claim: Claim) -> Estimate:
    """What the paper's counts allow: Wilson's for a share, simulated for a ratio of gaps; else the rounding."""
    if claim.unit == "count":
        return Estimate(claim.value, claim.value, claim.value)
    if claim.successes is not None and claim.n:
        found = share(claim.successes, claim.n)
        return Estimate(claim.value, found.low, found.high)
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


def _top_layers(run: _Run) -> PaperRow:
    paper = run.paper.top_layers
    layers = sorted((r for r in run.components if r.scope == "layer"), key=lambda r: -r.kl_nats)
    top = [int(r.layer or 0) for r in layers[: len(paper)]] if len(layers) > len(paper) else None
    verdict = judge_top(top, paper, same_model=run.same_model)
    named = ", ".join(map(str, sorted(top))) if top else None
    reason = f"ours: layers {named}" if named else "this run switched off too few single layers"
    both = "; ".join(r for r in (verdict.reason, reason) if r)
    claim = f"layers {', '.join(map(str, paper))} have the largest KL"
    return _row(run, "figure 3", claim, None, "layers", Verdict(verdict.word, both))


# patterns


def _pattern_rows(run: _Run, pattern: Pattern) -> Iterator[PaperRow]:
    judge, find = _TESTS[str(pattern.test)]
    for subject, ours in find(run) or [(None, None)]:
        verdict = judge(ours.interval if ours else None, run.same_model)
        yield _row(run, pattern.place, pattern.statement, subject, "pattern", verdict, ours=ours,
                   missing="this run has no rows to test it by")  # fmt: skip


Cases = list[tuple[str | None, Found | None]]


def _recovers_most(run: _Run) -> Cases:
    return [(r.benchmark, Found(_interval(r.recovery, r.recovery_ci_low, r.recovery_ci_high), r.n_items,
                                _marked("recovery", r.engines_differ)))
            for r in run.recoveries if r.recovery is not None]  # fmt: skip


def _paired(run: _Run, first: str, second: str) -> Cases:
    found: Cases = []
    for benchmark, variants in run.scores.items():
        if first in variants and second in variants:
            two: dict[str, ItemScores] = {first: variants[first], second: variants[second]}
            paired = paired_scores(two)
            shared = paired.scores
            if shared[first]:
                difference = paired_difference(shared[first], shared[second])
                found.append((benchmark, Found(difference, len(shared[first]),
                                               _marked(f"{first} - {second}", paired.engines_differ))))  # fmt: skip
    return found


def _singles(run: _Run) -> list[ComponentRow]:
    own = [r for r in run.components if r.scope == "component" and r.projection and r.layer is not None]
    return [r for r in own if r.mode == own[0].mode]


def _mlp_above_attention(run: _Run) -> Cases:
    own = _singles(run)
    attention = [r.kl_nats for r in own if r.projection in ATTENTION]
    mlp = [r.kl_nats for r in own if r.projection not in ATTENTION]
    if not attention or not mlp:
        return []
    return [(None, Found(group_difference(mlp, attention), len(own), "mean KL, MLP - attention (nats)"))]


def _gate_strongest(run: _Run) -> Cases:
    """gate_proj minus the strongest of the others, paired by layer."""
    by_projection: dict[str, dict[int, float]] = {}
    for r in _singles(run):
        by_projection.setdefault(str(r.projection), {})[int(r.layer or 0)] = r.kl_nats
    gate = by_projection.pop("gate_proj", None)
    if not gate or not by_projection:
        return []
    rival = max(by_projection, key=lambda p: sum(by_projection[p].values()) / len(by_projection[p]))
    differences = [gate[x] - by_projection[rival][x] for x in gate if x in by_projection[rival]]
    if not differences:
        return []
    return [
        (None, Found(mean_interval(differences), len(differences), f"mean KL, gate_proj - {rival} (nats, by layer)"))
    ]


def _later_layers(run: _Run) -> Cases:
    layers = sorted((int(r.layer or 0), r.kl_nats) for r in run.components if r.scope == "layer")
    half = len(layers) // 2
    if half == 0:
        return []
    early, late = [kl for _, kl in layers[:half]], [kl for _, kl in layers[half:]]
    return [
        (None, Found(group_difference(late, early), len(layers), "mean KL, later - earlier half of the layers (nats)"))
    ]


def _grade_difference(run: _Run, first: str, second: str) -> Cases:
    found: Cases = []
    own = [g for g in run.grades if g.grade == 0]
    for a in own:
        for b in own:
            if (a.source, b.source) == (first, second) and a.interpreter == b.interpreter:
                difference = independent_difference(_share(a), _share(b))
                found.append((f"graded by {a.interpreter}", Found(difference, a.n_features + b.n_features,
                              f"share of grade 0, {first} - {second}")))  # fmt: skip
    return found


def _share(row: GradeRow) -> Estimate:
    return _interval(row.share, row.share_ci_low, row.share_ci_high)


Judge = Callable[[Estimate | None, bool], Verdict]


def _above(threshold: float) -> Judge:
    return lambda found, same: judge_pattern(found, same_model=same, above=threshold)


def _equal(found: Estimate | None, same: bool) -> Verdict:
    return judge_equal(found, same_model=same)


_TESTS: dict[str, tuple[Judge, Callable[[Any], Cases]]] = {
    "recovers_most": (_above(MAJORITY), _recovers_most),
    "attention_off_beats_mlp_off": (_above(0.0), lambda run: _paired(run, "without-attention", "without-mlp")),
    "attention_off_beats_base": (_above(0.0), lambda run: _paired(run, "without-attention", "base")),
    "mlp_above_attention": (_above(0.0), _mlp_above_attention),
    "gate_strongest": (_above(0.0), _gate_strongest),
    "later_layers_stronger": (_above(0.0), _later_layers),
    "directions_like_neurons": (_equal, lambda run: _grade_difference(run, "adapter-activations", "mlp-neurons")),
    "latents_above_directions": (_above(0.0), lambda run: _grade_difference(run, "batch-topk", "adapter-activations")),
}
"""Name in claims.yaml -> how it is judged and what it is judged by."""
