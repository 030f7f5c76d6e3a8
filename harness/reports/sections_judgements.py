"""The reports of interpretation: grades and how far they can be believed, scores, densities, enrichment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.reports import queries
from harness.reports.cells import Column, count, fixed, inline, p_value, percent, short, significant, text
from harness.reports.section import Block, Section

TOP_TESTS = 12
"""Tests between sources listed; JSON and CSV have all."""


def _test_blocks(rows: Sequence[Any]) -> list[Block]:
    blocks = []
    for interpreter in dict.fromkeys(r.interpreter for r in rows):
        own = [r for r in rows if r.interpreter == interpreter]
        shown = own[:TOP_TESTS]
        blocks.append(Block(f"graded by {interpreter}: {len(shown)} of {len(own)} tests, smallest p first", shown))
    return blocks


_MEASURES = {
    "planted": "Planted features, whose right grade is known (*)",
    "agreement": "Graded again: kappa with the first grading",
    "right class": "Features of one ground-truth class: what their explanations name (*: the right one)",
    "categories again": "Categories made and assigned again from another sample: adjusted Rand index",
}


def _judge_blocks(rows: Sequence[Any]) -> list[Block]:
    groups = {measure: [r for r in rows if r.measure == measure] for measure in _MEASURES}
    return [Block(_MEASURES[measure], own) for measure, own in groups.items() if own]


def _score_blocks(rows: Sequence[Any]) -> list[Block]:
    interpreters = dict.fromkeys(r.interpreter for r in rows)
    return [Block(f"explained by {name}", [r for r in rows if r.interpreter == name]) for name in interpreters]


def _density_blocks(rows: Sequence[Any]) -> list[Block]:
    groups: dict[tuple[str, str | None], list[Any]] = {}
    for row in rows:
        if row.by in ("source", "subcategory"):
            groups.setdefault((row.source, row.interpreter), []).append(row)
    blocks = []
    for (source, interpreter), own in groups.items():
        shown: list[Any] = []
        for whole in (r for r in own if r.by == "source"):
            shown += [whole, *(r for r in own if r.by == "subcategory" and r.category == whole.category)]
        blocks.append(Block(f"{source}, categorised by {text(interpreter)}", shown))
    return blocks


def _enrichment_blocks(rows: Sequence[Any]) -> list[Block]:
    """Per source, each kind of token with the feature that favours it most surely."""
    first: dict[str, dict[tuple[str, str], Any]] = {}
    for row in rows:
        first.setdefault(row.source, {}).setdefault((row.family, row.event), row)
    return [Block(f"{source}: the feature that favours each kind most surely", list(own.values()))
            for source, own in first.items()]  # fmt: skip


_GRADES = Section(
    "grades",
    "Grades: how monosemantic the explained features are",
    queries.grades,
    (
        Column("source", lambda r: r.source, "left"),
        Column("interpreter", lambda r: r.interpreter, "left"),
        Column("grade", lambda r: f"{text(r.grade)} {r.label}", "left"),
        Column("features", lambda r: f"{count(r.n)} of {count(r.n_features)}"),
        Column("dead", lambda r: count(r.n_dead)),
        Column("share", lambda r: inline(r.share, r.share_ci_low, r.share_ci_high, percent)),
        Column("paper", lambda r: percent(r.paper_share)),
    ),
    ("interpret",),
    "explanations",
    legend=(
        "Failed gradings stay in the denominator, dead features are counted beside it. 95 % intervals: bootstrap by "
        "layer, Wilson at least."
    ),
    after=("grade-tests",),
)

_GRADE_TESTS = Section(
    "grade-tests",
    "Grades between sources: is the share the same?",
    queries.grade_tests,
    (
        Column("grade", lambda r: f"{text(r.grade)} {r.label}", "left"),
        Column("source", lambda r: r.source, "left"),
        Column("share", lambda r: f"{percent(r.share)} of {count(r.n_features)}"),
        Column("other source", lambda r: r.other_source, "left"),
        Column("share", lambda r: f"{percent(r.other_share)} of {count(r.n_other_features)}"),
        Column("p", lambda r: p_value(r.p_value)),
        Column("p (Holm)", lambda r: p_value(r.p_holm)),
    ),
    ("interpret",),
    "tests between sources",
    legend=(
        "p: exact permutation of the sources' labels, within layers where the two sources have layers in common. "
        "Holm: over all pairs of sources and all grades of an interpreter."
    ),
    blocks=_test_blocks,
)

_JUDGE = Section(
    "judge",
    "The judge: how far grades and explanations can be believed",
    queries.judge,
    (
        Column("judge", lambda r: r.interpreter, "left"),
        Column("of", lambda r: r.subject, "left"),
        Column("outcome", lambda r: f"{r.outcome} *" if r.right else r.outcome, "left", wrap=True),
        Column("features", lambda r: f"{count(r.n)} of {count(r.n_features)}"),
        Column(
            "value",
            lambda r: inline(r.value, r.value_ci_low, r.value_ci_high, percent if r.unit == "share" else fixed),
        ),
    ),
    ("regrade", "interpret"),
    "judgements of the judge",
    label=lambda r: f"{r.interpreter}, {r.subject}",
    legend=(
        "Planted: one token, two unlike tokens, random tokens; Wilson intervals. Kappa: 1 is perfect, 0 is chance; "
        "failures are a class of their own; bootstrap over features; explainer: its own grades against the "
        "judge's. Right class: where 80 % of a feature's exemplars are of one class of the corpus. Rand index: "
        "jackknife."
    ),
    blocks=_judge_blocks,
)

_SCORES = Section(
    "scores",
    "Scores: how well explanations predict held-out contexts",
    queries.scores,
    (
        Column("source", lambda r: r.source, "left"),
        Column("test", lambda r: r.kind, "left"),
        Column("features", lambda r: f"{count(r.n_scored)} of {count(r.n_features)}"),
        Column("contexts", lambda r: count(r.n_contexts)),
        Column("unanswered", lambda r: count(r.n_unanswered)),
        Column(
            "balanced accuracy",
            lambda r: inline(r.balanced_accuracy, r.balanced_accuracy_ci_low, r.balanced_accuracy_ci_high, fixed),
        ),
        Column("AUC", lambda r: inline(r.auc, r.auc_ci_low, r.auc_ci_high, fixed)),
    ),
    ("score",),
    "scores",
    label=lambda r: r.source,
    legend=(
        "Means over features, 95 % intervals clustered by layer. Chance is 0.5; of finding the intruder among five "
        "contexts, 0.2 (contexts: tests). Half of the negatives hold a token that the feature fires on, where there "
        "are such. What is not answered counts as wrong."
    ),
    blocks=_score_blocks,
)

_DENSITIES = Section(
    "densities",
    "Activation density of categories and subcategories",
    queries.densities,
    (
        Column("category", lambda r: "" if r.subcategory else short(r.name), "left", wrap=True, ratio=2),
        Column("subcategory", lambda r: short(r.subcategory_name or ""), "left", wrap=True, ratio=2),
        Column("features", lambda r: f"{count(r.n_features)} of {count(r.n_features_of)}"),
        Column("density", lambda r: inline(r.density, r.density_ci_low, r.density_ci_high, percent)),
    ),
    ("categorise",),
    "densities",
    label=lambda r: r.source,
    legend=(
        "Share of the source's summed activations; of a subcategory, of its category's. 95 % intervals: bootstrap by "
        "layer, by feature for latents (linearised above 2,000). By layer and projection: --format json."
    ),
    blocks=_density_blocks,
    preview=lambda connection, run_id: queries.densities(connection, run_id, ()),
)

_ENRICHMENT = Section(
    "enrichment",
    "Enrichment: which tokens features go with",
    queries.enrichment,
    (
        Column("kind", lambda r: r.family, "left"),
        Column("tokens", lambda r: r.event, "left"),
        Column("n", lambda r: count(r.n_event)),
        Column("enriched", lambda r: f"{count(r.n_enriched)} of {count(r.n_features)}"),
        Column("feature", lambda r: r.feature, "left"),
        Column("odds ratio", lambda r: inline(r.odds_ratio, r.odds_ratio_ci_low, r.odds_ratio_ci_high, significant)),
        Column("of activation", lambda r: percent(r.activation_share)),
        Column("q", lambda r: p_value(r.q_value)),
    ),
    ("enrich",),
    "features held against kinds of tokens",
    label=lambda r: r.source,
    legend=(
        "Odds of being active on such tokens over the odds elsewhere; 95 % intervals and p with documents as clusters; "
        "q: Benjamini-Hochberg over the source. enriched: features with q < 0.05 and a ratio above 1. All features: "
        "--format json or csv."
    ),
    blocks=_enrichment_blocks,
    preview=queries.top_enrichment,
)

JUDGEMENTS = (_GRADES, _GRADE_TESTS, _JUDGE, _SCORES, _DENSITIES, _ENRICHMENT)
"""In the order in which they are read."""
