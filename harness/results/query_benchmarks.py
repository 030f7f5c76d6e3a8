"""Recovery (the paper's table 1) and groups switched off (its table 2), paired by benchmark item.

The two tables divide by different gaps, so each row names its denominator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from harness import stats
from harness.results.query_common import claims, finite, mean_score, once, own_steps, paper_names
from harness.results.tables import Evaluation, Sample
from harness.results.tables_ablations import AblationScore

WITHOUT = "without-"
"""Variants of this prefix are the adapter with a group switched off."""

_UNBOUNDED = "the interval is unbounded: the gap {gap} is not distinguishable from 0 on {n} items"


@dataclass(frozen=True)
class RecoveryRow:
    """One benchmark: how much of the full fine-tune's gain the adapter has. Intervals are 95 %."""

    benchmark: str
    n_items: int
    base: float | None
    base_ci_low: float | None
    base_ci_high: float | None
    adapter: float | None
    adapter_ci_low: float | None
    adapter_ci_high: float | None
    full: float | None
    full_ci_low: float | None
    full_ci_high: float | None
    recovery: float | None
    recovery_ci_low: float | None
    recovery_ci_high: float | None
    denominator: str
    p_value: float | None
    reason: str | None
    note: str | None
    paper_benchmark: str | None
    paper_base: float | None
    paper_adapter: float | None
    paper_full: float | None
    paper_recovery: float | None


@dataclass(frozen=True)
class GroupRow:
    """The adapter with a group of components switched off, on one benchmark. Intervals are 95 %.

    `group` is `none` for the whole adapter and `all` for the base model. `kl_nats` is KL(adapter ‖ ablated) per token.
    """

    group: str
    benchmark: str | None
    n_items: int | None
    score: float | None
    score_ci_low: float | None
    score_ci_high: float | None
    share_of_adapter_gap: float | None
    share_ci_low: float | None
    share_ci_high: float | None
    denominator: str
    p_value_vs_adapter: float | None
    kl_nats: float | None
    kl_ci_low: float | None
    kl_ci_high: float | None
    n_components: int | None
    reason: str | None
    note: str | None
    paper_benchmark: str | None
    paper_score: float | None
    paper_share_of_adapter_gap: float | None


@dataclass(frozen=True)
class ItemScores:
    """One variant's scores on one benchmark: doc_id -> mean over repeats."""

    scores: dict[int, float]
    engine: str
    chat_hash: str


@once
def recovery(connection: Connection, run_id: int) -> list[RecoveryRow]:
    """Base, adapter and full fine-tune on each benchmark; recovery = (adapter - base) / (full - base).

    Variants are paired by item; items that one of them lacks are left out, with a note. `p_value` is McNemar's exact
    test of adapter against base.
    """
    printed, names = claims(connection), paper_names(connection, run_id)
    rows = []
    for benchmark, variants in item_scores(connection, run_id).items():
        trio: dict[str, ItemScores] = {v: variants[v] for v in ("base", "adapter", "full") if v in variants}
        if not trio:
            continue
        shared, note = paired_scores(trio)
        values: dict[str, Any] = {"reason": None, "p_value": None}
        for variant in ("base", "adapter", "full"):
            values |= _interval(variant, mean_score(shared[variant]) if shared.get(variant) else None)
        values |= _ratio("recovery", shared, ("base", "adapter", "full"), "full - base")
        if shared.get("base") and shared.get("adapter"):
            values["p_value"] = stats.mcnemar_exact(shared["adapter"], shared["base"])
        paper = names.get(benchmark)
        n_items = max((len(s) for s in shared.values()), default=0)
        rows.append(
            RecoveryRow(
                benchmark=benchmark,
                n_items=n_items,
                denominator="full - base",
                note=note,
                paper_benchmark=paper,
                paper_base=printed.get(("score/base", str(paper))),
                paper_adapter=printed.get(("score/adapter", str(paper))),
                paper_full=printed.get(("score/full", str(paper))),
                paper_recovery=printed.get(("recovery", str(paper))),
                **values,
            )
        )
    return rows


@once
def groups(connection: Connection, run_id: int) -> list[GroupRow]:
    """The adapter, the adapter without each group, and the base model, on each benchmark.

    The share is (without - base) / (adapter - base). Groups of which only the KL was measured have no benchmark.
    """
    kl = _group_kl(connection, run_id)
    if not kl and not any(v.startswith(WITHOUT) for b in item_scores(connection, run_id).values() for v in b):
        return []
    printed, names = claims(connection), paper_names(connection, run_id)
    rows, seen = [], set()
    for benchmark, variants in item_scores(connection, run_id).items():
        without = [v for v in variants if v.startswith(WITHOUT)]
        for variant in [v for v in ("adapter", *without, "base") if v in variants]:
            group = {"adapter": "none", "base": "all"}.get(variant, variant.removeprefix(WITHOUT))
            seen.add(group)
            rows.append(_group_row(group, variant, benchmark, variants, kl.get(group), names.get(benchmark), printed))
    rows += [_kl_row(group, cell) for group, cell in kl.items() if group not in seen]
    return rows


def _group_row(
    group: str,
    variant: str,
    benchmark: str,
    variants: dict[str, ItemScores],
    cell: Any,
    paper: str | None,
    printed: dict[tuple[str, str], float],
) -> GroupRow:
    trio = {v: variants[v] for v in dict.fromkeys(("base", variant, "adapter")) if v in variants}
    shared, note = paired_scores(trio)
    values = _interval("score", mean_score(shared[variant]) if shared.get(variant) else None)
    values |= {"share_of_adapter_gap": None, "share_ci_low": None, "share_ci_high": None, "reason": None}
    p_value = None
    if variant == "adapter":
        values["share_of_adapter_gap"] = 1.0
    elif variant == "base":
        values["share_of_adapter_gap"] = 0.0
    else:
        values |= _ratio("share", shared, ("base", variant, "adapter"), "adapter - base", "share_of_adapter_gap")
    if variant != "adapter" and shared.get(variant) and shared.get("adapter"):
        p_value = stats.mcnemar_exact(shared[variant], shared["adapter"])
    return GroupRow(
        group=group,
        benchmark=benchmark,
        n_items=max((len(s) for s in shared.values()), default=0),
        denominator="adapter - base",
        p_value_vs_adapter=p_value,
        note=note,
        paper_benchmark=paper,
        paper_score=printed.get((f"score/{variant}", str(paper))),
        paper_share_of_adapter_gap=printed.get((f"share_of_adapter_gap/{group}", str(paper))),
        **_kl_values(cell),
        **values,
    )


def _kl_row(group: str, cell: Any) -> GroupRow:
    """A group of which no benchmark was run."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("benchmark", "n_items", "score", "score_ci_low", "score_ci_high", "share_of_adapter_gap", "share_ci_low",
         "share_ci_high", "p_value_vs_adapter", "note", "paper_benchmark", "paper_score", "paper_share_of_adapter_gap")
    )  # fmt: skip
    reason = "no benchmark was run with this group switched off"
    return GroupRow(group=group, denominator="adapter - base", reason=reason, **_kl_values(cell), **nothing)


def _kl_values(cell: Any) -> dict[str, Any]:
    """KL columns of a row of ablation_score, or of none."""
    names = ("kl_nats", "kl_ci_low", "kl_ci_high")
    values: dict[str, Any] = {name: finite(getattr(cell, name, None)) for name in names}
    return values | {"n_components": getattr(cell, "n_components", None)}


def _group_kl(connection: Connection, run_id: int) -> dict[str, Any]:
    """Group -> its row of ablation_score; `all` is the whole adapter."""
    found = connection.execute(
        select(AblationScore.__table__)
        .where(AblationScore.step_id.in_(own_steps(run_id)), AblationScore.scope.in_(("group", "adapter")))
        .order_by(AblationScore.id)
    ).all()
    cells = {str(r.group_name): r for r in found if r.scope == "group"}
    if cells:
        cells.update(("all", r) for r in found if r.scope == "adapter")
    return cells


@once
def item_scores(connection: Connection, run_id: int) -> dict[str, dict[str, ItemScores]]:
    """Benchmark -> variant -> scores, in the order in which they were stored; a later evaluation replaces another."""
    rows = connection.execute(
        select(
            Evaluation.id,
            Evaluation.benchmark,
            Evaluation.variant,
            Evaluation.engine,
            Evaluation.chat_hash,
            Sample.doc_id,
            func.avg(Sample.score).label("score"),
        )
        .join(Sample, Sample.evaluation_id == Evaluation.id)
        .where(Evaluation.step_id.in_(own_steps(run_id)))
        .group_by(
            Evaluation.id,
            Evaluation.benchmark,
            Evaluation.variant,
            Evaluation.engine,
            Evaluation.chat_hash,
            Sample.doc_id,
        )
        .order_by(Evaluation.id, Sample.doc_id)
    )
    found: dict[str, dict[str, ItemScores]] = {}
    newest: dict[tuple[str, str], int] = {}
    for r in rows:
        variants = found.setdefault(r.benchmark, {})
        if newest.get((r.benchmark, r.variant)) != r.id:
            newest[r.benchmark, r.variant] = r.id
            variants[r.variant] = ItemScores({}, r.engine, r.chat_hash)
        variants[r.variant].scores[r.doc_id] = float(r.score)
    return found


def paired_scores(variants: dict[str, ItemScores]) -> tuple[dict[str, list[float]], str | None]:
    """Scores on the items that all variants have, in one order, and what to know about the comparison."""
    shared = sorted(set.intersection(*(set(v.scores) for v in variants.values())))
    notes = []
    most = max(len(v.scores) for v in variants.values())
    if len(shared) < most:
        notes.append(f"{most - len(shared)} of {most} items are not shared by all variants and are left out")
    if len({v.engine for v in variants.values()}) > 1:
        notes.append("different engines: " + ", ".join(f"{n}: {v.engine}" for n, v in variants.items()))
    if len({v.chat_hash for v in variants.values()}) > 1:
        notes.append("prompts were rendered with different chat formats")
    return {name: [v.scores[i] for i in shared] for name, v in variants.items()}, "; ".join(notes) or None


def _interval(name: str, found: stats.Interval | None, estimate_name: str | None = None) -> dict[str, Any]:
    return {
        estimate_name or name: found.estimate if found else None,
        f"{name}_ci_low": finite(found.low) if found else None,
        f"{name}_ci_high": finite(found.high) if found else None,
    }


def _ratio(
    name: str, shared: dict[str, list[float]], trio: tuple[str, str, str], gap: str, estimate_name: str | None = None
) -> dict[str, Any]:
    """(second - first) / (third - first) with its interval, or the reason why there is none."""
    empty = _interval(name, None, estimate_name)
    missing = [v for v in trio if v not in shared]
    if missing:
        return empty | {"reason": f"this run has no evaluation of {', '.join(missing)}"}
    if not shared[trio[0]]:
        return empty | {"reason": "the variants share no item"}
    found = stats.recovery(*(shared[v] for v in trio))
    if isinstance(found, stats.Undefined):
        return empty | {"reason": f"{trio[2]} equals {trio[0]} on average: there is no gap {gap}"}
    reason = None if found.bounded else _UNBOUNDED.format(gap=gap, n=len(shared[trio[0]]))
    return _interval(name, found, estimate_name) | {"reason": reason}
