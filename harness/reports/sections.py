"""The reports: which query each one shows, and which columns people see of it. JSON and CSV give all columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.reports import dictionaries, queries
from harness.reports.cells import (
    Cell,
    Column,
    count,
    fixed,
    flagged,
    inline,
    lines,
    p_value,
    percent,
    short,
    significant,
    text,
    with_interval,
)
from harness.reports.section import Block, Section
from harness.reports.sections_ablations import ABLATIONS
from harness.reports.sections_answers import ANSWERS
from harness.reports.sections_captures import CAPTURES
from harness.reports.sections_judgements import JUDGEMENTS
from harness.reports.sections_paper import PAPER

TOP_FEATURES = 10
"""Features listed per source; JSON and CSV have all."""


def _recovery_paper(row: Any) -> tuple[str, ...] | str:
    if row.paper_benchmark is None:
        return text(None)
    scores = " ".join(fixed(v) for v in (row.paper_base, row.paper_adapter, row.paper_full))
    return (f"{row.paper_benchmark}: {percent(row.paper_recovery, 1)}", scores)


def _recovery_cell(row: Any) -> Cell:
    cell = flagged(with_interval(row.recovery, row.recovery_ci_low, row.recovery_ci_high, percent), row.engines_differ)
    if row.graded_recovery is None or isinstance(cell, str):
        return cell
    graded = with_interval(row.graded_recovery, row.graded_recovery_ci_low, row.graded_recovery_ci_high, percent)
    first, *others = lines(graded)
    return (*cell, f"by LLM {first}", *others)


def _group_paper(row: Any) -> tuple[str, ...] | str:
    if row.paper_score is None:
        return text(None)
    return (f"{fixed(row.paper_score)}", percent(row.paper_share_of_adapter_gap, 1))


def _commit(row: Any) -> tuple[str, ...]:
    return (text(row.git_sha and row.git_sha[:10]), *(["dirty"] if row.git_dirty else []))


def _tokens(row: Any) -> tuple[str, str]:
    return (f"{count(row.n_tokens)} tokens", f"{count(row.n_documents)} documents")


def _feature_blocks(rows: Sequence[Any]) -> list[Block]:
    groups: dict[tuple[str, str | None], list[Any]] = {}
    for row in rows:
        groups.setdefault((row.source, row.interpreter), []).append(row)
    explained = {source for source, interpreter in groups if interpreter is not None}
    blocks = []
    for (source, interpreter), own in groups.items():
        if interpreter is None and source in explained:
            continue
        by = f"explained by {interpreter}" if interpreter else "not explained"
        shown = own[:TOP_FEATURES]
        n = getattr(own[0], "n_alike", len(own))  # a preview has only the first of them
        blocks.append(Block(f"{source}, {by}: {len(shown)} of {n} features, by summed activation", shown))
    return blocks


def _category_blocks(rows: Sequence[Any]) -> list[Block]:
    groups: dict[tuple[str, str | None], list[Any]] = {}
    for row in rows:
        groups.setdefault((row.source, row.interpreter), []).append(row)
    return [
        Block(f"{source}, categorised by {text(interpreter)}: {sum(r.n_features for r in own)} features", own)
        for (source, interpreter), own in groups.items()
    ]


_OVERVIEW = Section(
    "overview",
    "Run",
    queries.overview,
    (
        Column("run", lambda r: text(r.run_id)),
        Column("study", lambda r: (r.study, f"preset {text(r.preset)}", f"seed {r.seed}"), "left"),
        Column("status", lambda r: r.status, "left"),
        Column("started (UTC)", lambda r: tuple(r.started_at[:19].split("T")), "left"),
        Column("wall", lambda r: _duration(r.wall_s)),
        Column("steps", lambda r: (f"{r.n_steps_done} of {r.n_steps} done", f"{r.n_steps_reused} reused"), "left"),
        Column("LLM calls", lambda r: (count(r.n_llm_calls), f"{count(r.n_llm_calls_failed)} failed")),
        Column("LLM tokens", lambda r: (f"{count(r.llm_input_tokens)} in", f"{count(r.llm_output_tokens)} out")),
        Column("commit", _commit, "left"),
    ),
    label=lambda r: f"run {r.run_id}",
    after=("steps",),
)

_STEPS = Section(
    "steps",
    "Steps",
    queries.steps,
    (
        Column("#", lambda r: text(r.position + 1)),
        Column("step", lambda r: r.step, "left", wrap=True),
        Column("plugin", lambda r: text(r.plugin), "left"),
        Column("status", lambda r: "reused" if r.reused and r.status == "done" else r.status, "left"),
        Column("wall", lambda r: _duration(r.wall_s)),
        Column("device", lambda r: text(r.device), "left"),
        Column("commit", lambda r: text(r.git_sha and r.git_sha[:7]), "left"),
    ),
    what="steps",
    label=lambda r: r.step,
)

_RECOVERY = Section(
    "recovery",
    "Recovery: how much of the full fine-tune's gain the adapter has",
    queries.recovery,
    (
        Column("benchmark", lambda r: r.benchmark, "left", wrap=True),
        Column("n", lambda r: count(r.n_items)),
        Column("base", lambda r: with_interval(r.base, r.base_ci_low, r.base_ci_high)),
        Column("adapter", lambda r: with_interval(r.adapter, r.adapter_ci_low, r.adapter_ci_high)),
        Column("full", lambda r: with_interval(r.full, r.full_ci_low, r.full_ci_high)),
        Column("recovery", _recovery_cell),
        Column("p", lambda r: p_value(r.p_value)),
        Column("paper", _recovery_paper, "left"),
    ),
    ("evaluate",),
    "evaluations",
    label=lambda r: r.benchmark,
    legend=(
        "Recovery = (adapter - base) / (full - base), paired by item. 95 % intervals: Wilson for scores, Fieller for "
        "recovery. p: exact McNemar test, adapter against base. Paper: its benchmark and recovery; base, adapter, "
        "full. By LLM: with a grader's verdicts, where there is one (harness report grader)."
    ),
)

_GROUPS = Section(
    "groups",
    "Groups switched off: what remains of the adapter's gain",
    queries.groups,
    (
        Column("off", lambda r: r.group, "left"),
        Column("benchmark", lambda r: text(r.benchmark), "left", wrap=True),
        Column("n", lambda r: count(r.n_items)),
        Column("score", lambda r: with_interval(r.score, r.score_ci_low, r.score_ci_high)),
        Column(
            "share of gap",
            lambda r: flagged(
                percent(r.share_of_adapter_gap)
                if r.group in ("none", "all")
                else with_interval(r.share_of_adapter_gap, r.share_ci_low, r.share_ci_high, percent),
                r.engines_differ,
            ),
        ),
        Column("p", lambda r: p_value(r.p_value_vs_adapter)),
        Column("KL (nats)", lambda r: with_interval(r.kl_nats, r.kl_ci_low, r.kl_ci_high, significant)),
        Column("paper", _group_paper),
    ),
    ("ablate",),
    "groups switched off",
    label=lambda r: f"{r.group} on {r.benchmark}" if r.benchmark else r.group,
    legend=(
        "Share = (without - base) / (adapter - base), paired by item: not recovery's denominator. off: none is the "
        "whole adapter, all is the base model. p: exact McNemar test against the adapter. KL(adapter || ablated) per "
        "token. Paper: score and share, table 2."
    ),
)

_DICTIONARIES = Section(
    "dictionaries",
    "Dictionaries, on held-out documents",
    queries.dictionaries,
    (
        Column("dictionary", dictionaries.name_cell, "left"),
        Column("latents", dictionaries.latents_cell),
        Column("L0", lambda r: with_interval(r.l0, r.l0_ci_low, r.l0_ci_high, dictionaries.two_digits)),
        Column("FVU", lambda r: with_interval(r.fvu, r.fvu_ci_low, r.fvu_ci_high, dictionaries.two_significant)),
        Column("KL recovered", dictionaries.recovered_cell),
        Column(
            "stability",
            lambda r: with_interval(r.stability, r.stability_ci_low, r.stability_ci_high, dictionaries.two_digits),
        ),
        Column("on", _tokens),
    ),
    ("learn", "judge"),
    "dictionaries",
    label=lambda r: r.name,
    legend=(
        "FVU: share of variance unexplained, 0 is perfect. KL recovered = 1 - KL(adapter || adapter with its scalars "
        "replaced by the reconstruction) / KL(adapter || base): 100 % is a perfect splice, 0 % is as far as the base "
        "model; below it the first of these KLs, per token. Stability: mean cosine of latents matched with those of "
        "another seed. Bars: alive latents by density (active tokens per token), 1e-6 to 1. 95 % intervals: bootstrap "
        "over documents (stability: over latents). Frontier: none of the others is both sparser and closer."
    ),
    picture=dictionaries.frontier,
)

_LATENTS = Section(
    "latents",
    "Latents switched off one by one",
    queries.latents,
    (
        Column("latent", lambda r: r.latent, "left"),
        Column("KL (nats)", dictionaries.effect_cell),
        Column("of adapter's", lambda r: percent(r.share_of_adapter_kl, 1)),
        Column("density", lambda r: percent(r.density_per_token, 1)),
        Column("explanation", dictionaries.explanation_cell, "left", wrap=True, ratio=1),
        Column("active on", lambda r: f"{count(r.n_active)} of {count(r.n_tokens)} tokens"),
    ),
    ("judge",),
    "latents switched off",
    label=lambda r: r.source,
    legend=(
        "The latent's contribution is taken out of the adapter's scalars; what the dictionary does not explain stays. "
        "KL(adapter || adapter without it) per held-out token; 95 % intervals by bootstrap over documents."
    ),
    blocks=lambda rows: [Block(title, own) for title, own in dictionaries.latent_groups(rows)],
)

_FEATURES = Section(
    "features",
    "Features",
    queries.features,
    (
        Column("feature", lambda r: r.feature, "left"),
        Column("grade", lambda r: "failed" if r.interpreter and r.grade is None else text(r.grade)),
        Column("explanation", lambda r: short(r.explanation or r.reason), "left", wrap=True, ratio=3),
        Column("category", lambda r: short(r.category), "left", wrap=True, ratio=2),
        Column("density", lambda r: percent(r.density_per_token, 1)),
        Column("max", lambda r: significant(r.activation_max)),
        Column("strongest context", lambda r: short(r.top_token_context), "left", wrap=True, ratio=4),
    ),
    ("probe", "learn", "interpret"),
    "features",
    legend="Grade: 0 monosemantic, 1 broad but consistent, 2 polysemantic. Density: share of tokens where active.",
    blocks=_feature_blocks,
    preview=lambda connection, run_id: queries.top_features(connection, run_id, TOP_FEATURES),
    before=("grades",),
)

_CATEGORIES = Section(
    "categories",
    "Categories",
    queries.categories,
    (
        Column("category", lambda r: short(r.name), "left", wrap=True, ratio=2),
        Column("id", lambda r: short(r.category), "left", wrap=True, ratio=1),
        Column("features", lambda r: count(r.n_features)),
        Column("share", lambda r: inline(r.share, r.share_ci_low, r.share_ci_high, percent)),
        Column("activation density", lambda r: percent(r.activation_density, 1)),
    ),
    ("categorise",),
    "categories",
    label=lambda r: r.source,
    legend="Density: the category's share of the source's summed activations. Intervals as for grades.",
    blocks=_category_blocks,
)

SECTIONS = {
    s.name: s
    for s in (
        _OVERVIEW,
        _STEPS,
        _RECOVERY,
        *ANSWERS,
        _GROUPS,
        *ABLATIONS,
        CAPTURES,
        _DICTIONARIES,
        _LATENTS,
        _FEATURES,
        _CATEGORIES,
        *JUDGEMENTS,
        PAPER,
    )
}
"""Every report by name, in the order of the paper."""


def _duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return text(None)
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
