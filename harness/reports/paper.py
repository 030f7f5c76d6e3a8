"""The paper card: each of the paper's claims, ours beside it, and a verdict by the rule of `common.verdicts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from sqlalchemy import Connection, select

from harness.contract.cells import Cell, count, fixed, percent, significant, text, with_interval
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate, Flat
from harness.reports.common.benchmarks import item_scores, paired_scores
from harness.reports.common.differences import (
    group_difference,
    independent_difference,
    mean_interval,
    paired_difference,
)
from harness.reports.common.rows import paper_names, run_steps
from harness.reports.common.verdicts import (
    RULE,
    Verdict,
    judge_count,
    judge_equal,
    judge_number,
    judge_pattern,
    judge_top,
)
from harness.reports.components import ComponentRow, components
from harness.reports.grades import grades
from harness.reports.groups import groups
from harness.reports.recovery import recovery
from harness.stats import share
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
    paper_value: Annotated[Estimate | None, Flat("paper")]
    paper_n: int | None
    ours: Estimate | None
    ours_n: int | None
    ours_is: str | None
    verdict: str
    reason: str | None
    same_model: bool
    model: str | None


@dataclass(frozen=True)
class Ours:
    """What this run has for a claim: a number, of how many cases, and what it is in words."""

    number: Estimate
    n: int
    what: str


class _Run:
    """The rows of a run that claims are judged by."""

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
        steps = run_steps(run_id)
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
    paper: Estimate | None = None, paper_n: int | None = None, ours: Ours | None = None, missing: str | None = None,
) -> PaperRow:  # fmt: skip
    return PaperRow(
        place=place,
        claim=claim,
        subject=subject,
        unit=unit,
        paper_value=_printed(paper),
        paper_n=paper_n,
        ours=_printed(ours.number) if ours else None,
        ours_n=ours.n if ours else None,
        ours_is=ours.what if ours else None,
        verdict=verdict.word,
        reason=verdict.reason if ours or verdict.reason else missing,
        same_model=run.same_model,
        model=run.model,
    )


def _printed(number: Estimate | None) -> Estimate | None:
    """A number as the card has it: an exact one, whose interval is a point, has no bounds."""
    if number is None or number.low < number.high:
        return number
    return Estimate(number.value, -math.inf, math.inf)


# numbers


def _number_rows(run: _Run, claim: Claim) -> Iterator[PaperRow]:
    paper = _paper_interval(run.paper.numbers, claim)
    numbers: Sequence[Ours | None] = _ours(run, claim) or [None]
    for ours in numbers:
        number = ours.number if ours else None
        if claim.unit == "count":
            tolerance = 0.1 if claim.comment == "roughly" else 0.0
            verdict = judge_count(number.value if number else None, claim.value, same_model=run.same_model,
                                  tolerance=tolerance)  # fmt: skip
        else:
            verdict = judge_number(number, paper, same_model=run.same_model)
        yield _row(run, claim.place, claim.quantity, claim.subject, claim.unit, verdict, paper=paper, paper_n=claim.n,
                   ours=ours, missing="this run has no such number")  # fmt: skip


def _ours(run: _Run, claim: Claim) -> list[Ours]:
    kind, _, part = claim.quantity.partition("/")
    if kind in ("score", "recovery", "share_of_adapter_gap"):
        numbers = [_benchmark_number(run, kind, part, name) for name in run.benchmarks(claim.subject)]
        return [number for number in numbers if number is not None]
    if kind == "grade":
        rows = [g for g in run.grades if g.paper_source == claim.subject and str(g.grade) == part]
        return [Ours(g.share, g.n_features, f"{g.source} by {g.interpreter}") for g in rows]
    return [Ours(Estimate(value, value, value), 1, what) for value, what in _counts(run, claim)]


def _counts(run: _Run, claim: Claim) -> list[tuple[int, str]]:
    if claim.quantity == "n_components":
        matrices = [str(p) for s in run.sets if s.source == "adapter-activations" for p in s.projections_json]
        counted = [p for p in matrices if claim.subject == "all" or (p in ATTENTION) == (claim.subject == "attention")]
        return [(len(counted), "matrices with an adapter")] if matrices else []
    if claim.quantity == "n_parameters":
        return [(c.n_parameters, "trained parameters") for c in run.checkpoints if c.kind == "adapter"]
    return [
        (getattr(d, claim.quantity), d.name) for d in run.dictionaries if PAPER_SOURCES.get(d.name) == claim.subject
    ]


def _benchmark_number(run: _Run, kind: str, part: str, benchmark: str) -> Ours | None:
    if kind == "recovery" or part in ("base", "adapter", "full"):
        r = next((r for r in run.recoveries if r.benchmark == benchmark), None)
        number: Estimate | None = getattr(r, part or "recovery") if r else None
        if r is None or number is None:
            return None
        return Ours(number, r.n_items, _marked(benchmark, not part and r.engines_differ))
    group = part.removeprefix("without-")
    g = next((g for g in run.groups if (g.group, g.benchmark) == (group, benchmark)), None)
    number = (g.score if kind == "score" else g.share_of_adapter_gap) if g else None
    if g is None or number is None:
        return None
    return Ours(number, g.n_items or 0, _marked(benchmark, kind != "score" and g.engines_differ))


def _marked(what: str, engines_differ: bool) -> str:
    """What a number is; said there where it compares answers of different engines."""
    return f"{what} (different engines)" if engines_differ else what


def _paper_interval(numbers: Sequence[Claim], claim: Claim) -> Estimate:
    """What the paper's counts allow: Wilson's for a share, simulated for a ratio of gaps; else the rounding."""
    if claim.unit == "count":
        return Estimate(claim.value, claim.value, claim.value)
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


def _top_layers(run: _Run) -> PaperRow:
    paper = run.paper.top_layers
    layers = sorted((r for r in run.components if r.scope == "layer"), key=lambda r: -r.kl_nats.value)
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
        verdict = judge(ours.number if ours else None, run.same_model)
        yield _row(run, pattern.place, pattern.statement, subject, "pattern", verdict, ours=ours,
                   missing="this run has no rows to test it by")  # fmt: skip


Cases = list[tuple[str | None, Ours | None]]
"""What a pattern is tested by: (what the row is of, our number)."""


def _recovers_most(run: _Run) -> Cases:
    return [
        (r.benchmark, Ours(r.recovery, r.n_items, _marked("recovery", r.engines_differ)))
        for r in run.recoveries
        if r.recovery is not None
    ]


def _paired(run: _Run, first: str, second: str) -> Cases:
    cases: Cases = []
    for benchmark, variants in run.scores.items():
        if first in variants and second in variants:
            paired = paired_scores({first: variants[first], second: variants[second]})
            x, y = paired.scores[first], paired.scores[second]
            if x:
                what = _marked(f"{first} - {second}", paired.engines_differ)
                cases.append((benchmark, Ours(paired_difference(x, y), len(x), what)))
    return cases


def _singles(run: _Run) -> list[ComponentRow]:
    singles = [r for r in run.components if r.scope == "component" and r.projection and r.layer is not None]
    return [r for r in singles if r.mode == singles[0].mode]


def _mlp_above_attention(run: _Run) -> Cases:
    singles = _singles(run)
    attention = [r.kl_nats.value for r in singles if r.projection in ATTENTION]
    mlp = [r.kl_nats.value for r in singles if r.projection not in ATTENTION]
    if not attention or not mlp:
        return []
    return [(None, Ours(group_difference(mlp, attention), len(singles), "mean KL, MLP - attention (nats)"))]


def _gate_strongest(run: _Run) -> Cases:
    """gate_proj minus the strongest of the others, paired by layer."""
    by_projection: dict[str, dict[int, float]] = {}
    for r in _singles(run):
        by_projection.setdefault(str(r.projection), {})[int(r.layer or 0)] = r.kl_nats.value
    gate = by_projection.pop("gate_proj", None)
    if not gate or not by_projection:
        return []
    rival = max(by_projection, key=lambda p: sum(by_projection[p].values()) / len(by_projection[p]))
    differences = [gate[x] - by_projection[rival][x] for x in gate if x in by_projection[rival]]
    if not differences:
        return []
    return [
        (None, Ours(mean_interval(differences), len(differences), f"mean KL, gate_proj - {rival} (nats, by layer)"))
    ]


def _later_layers(run: _Run) -> Cases:
    layers = sorted((int(r.layer or 0), r.kl_nats.value) for r in run.components if r.scope == "layer")
    half = len(layers) // 2
    if half == 0:
        return []
    early, late = [kl for _, kl in layers[:half]], [kl for _, kl in layers[half:]]
    return [
        (None, Ours(group_difference(late, early), len(layers), "mean KL, later - earlier half of the layers (nats)"))
    ]


def _grade_difference(run: _Run, first: str, second: str) -> Cases:
    cases: Cases = []
    monosemantic = [g for g in run.grades if g.grade == 0]
    for a in monosemantic:
        for b in monosemantic:
            if (a.source, b.source) == (first, second) and a.interpreter == b.interpreter:
                what = f"share of grade 0, {first} - {second}"
                difference = independent_difference(a.share, b.share)
                cases.append((f"graded by {a.interpreter}", Ours(difference, a.n_features + b.n_features, what)))
    return cases


Judge = Callable[[Estimate | None, bool], Verdict]


def _above(threshold: float) -> Judge:
    return lambda difference, same: judge_pattern(difference, same_model=same, above=threshold)


def _equal(difference: Estimate | None, same: bool) -> Verdict:
    return judge_equal(difference, same_model=same)


_TESTS: dict[str, tuple[Judge, Callable[[_Run], Cases]]] = {
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


_WORDS = {
    "recovery": "recovery", "n_alive": "alive latents", "n_latents": "latents", "n_components": "components",
    "n_parameters": "trained parameters", "grade/0": "monosemantic (grade 0)", "grade/1": "broad (grade 1)",
}  # fmt: skip


def _claim(row: PaperRow) -> str:
    """A quantity in words; patterns are words already."""
    kind, _, part = row.claim.partition("/")
    if row.unit == "share" and kind == "score":
        return f"score, {part.replace('without-', 'without ')}"
    if row.unit == "share" and kind == "share_of_adapter_gap":
        return f"share of the adapter's gap without {part}"
    return _WORDS.get(row.claim, row.claim)


def _number(row: PaperRow, name: str) -> Cell:
    """The number in the column `paper` or `ours`."""
    number = row.ours if name == "ours" else row.paper_value
    if number is None:
        return text(None)
    if row.unit == "count":
        return count(round(number.value))
    form: Callable[[float | None], str] = percent if row.unit == "share" else fixed
    if row.unit == "pattern" and "nats" in (row.ours_is or ""):
        form = significant
    if name == "paper" and (not number.bounded or number.high - number.low <= 2 * ROUNDING):
        return form(number.value)
    return with_interval(number, form)


def _blocks(rows: Sequence[PaperRow]) -> list[Block[PaperRow]]:
    numbers = [r for r in rows if r.unit in ("share", "count", "layers")]
    patterns = [r for r in rows if r.unit not in ("share", "count", "layers")]
    titles = (f"Numbers: {_tally(numbers)}", numbers), (f"Patterns: {_tally(patterns)}", patterns)
    return [Block(title, group) for title, group in titles if group]


def _tally(rows: Sequence[PaperRow]) -> str:
    words = list(dict.fromkeys(r.verdict for r in rows))
    return ", ".join(f"{sum(r.verdict == w for r in rows)} {w}" for w in words)


def _model_sentence(row: PaperRow) -> str:
    """Whether the run's model is the paper's, plainly."""
    if row.same_model:
        return f"This run's model is the paper's: {row.model}."
    return (
        f"This is another model ({text(row.model)}), not the paper's Qwen2.5-32B-Instruct: its numbers cannot "
        "reproduce or contradict the paper's, only the patterns are tested."
    )


REPORT = Report[PaperRow](
    "paper",
    "The paper's claims",
    paper_card,
    (
        Column("where", lambda r: r.place, "left"),
        Column("claim", _claim, "left", wrap=True, ratio=3),
        Column("of", lambda r: text(r.subject), "left", wrap=True, ratio=2),
        Column("paper", lambda r: _number(r, "paper")),
        Column("ours", lambda r: _number(r, "ours")),
        Column("n", lambda r: count(r.ours_n) if r.unit != "count" else text(None)),
        Column("verdict", lambda r: r.verdict, "left", wrap=True),
    ),
    ("evaluate", "train", "probe", "learn", "interpret", "ablate"),
    "claims",
    order=220,
    label=lambda r: f"{r.claim}, {r.subject}" if r.subject else r.claim,
    legend=RULE + " The paper prints no interval: its are computed from its counts, unpaired. Ours of a pattern: the "
    "difference that decides; JSON and CSV say of what.",
    blocks=_blocks,
    lead=lambda rows: _model_sentence(rows[0]),
)
