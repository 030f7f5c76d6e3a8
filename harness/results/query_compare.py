"""Two runs side by side. What they share item by item (or document by document) is compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness import stats
from harness.results.differences import independent_difference, paired_difference
from harness.results.query_benchmarks import item_scores, paired_scores
from harness.results.query_common import finite, mean_score, own_steps
from harness.results.query_grades import grades
from harness.results.tables import RunStep, Step, StudyRun
from harness.results.tables_ablations import AblationScore
from harness.results.tables_dictionaries import DictionaryScore
from harness.stats import Interval


@dataclass(frozen=True)
class CompareRow:
    """One number in two runs. `difference` is second - first; intervals are 95 %.

    `pairing` says how the difference was made: over the same `items`, the same `documents`, or from two `independent`
    estimates; null where there is none, with a `reason`. `p_value` is McNemar's exact test, for paired items.
    """

    table: str
    what: str
    unit: str
    n: int | None
    first: float | None
    first_ci_low: float | None
    first_ci_high: float | None
    second: float | None
    second_ci_low: float | None
    second_ci_high: float | None
    difference: float | None
    difference_ci_low: float | None
    difference_ci_high: float | None
    pairing: str | None
    p_value: float | None
    reason: str | None
    note: str | None


@dataclass(frozen=True)
class SettingRow:
    """Something that is not the same in the two runs."""

    what: str
    first: str | None
    second: str | None


def compare_runs(connection: Connection, first: int, second: int) -> list[CompareRow]:
    """Benchmarks, ablations, dictionaries and grades that either run has."""
    return [
        *_benchmarks(connection, first, second),
        *_ablations(connection, first, second),
        *_dictionaries(connection, first, second),
        *_grades(connection, first, second),
    ]


def different_settings(connection: Connection, first: int, second: int) -> list[SettingRow]:
    """What differs: the runs' own fields, and the settings of steps of one name that have different keys."""
    found = {r.id: r for r in connection.execute(select(StudyRun.__table__).where(StudyRun.id.in_((first, second))))}
    a, b = found[first], found[second]
    names = ("study", "preset", "seed", "model", "git_sha", "git_dirty", "status")
    rows = [SettingRow(n, _text(getattr(a, n)), _text(getattr(b, n))) for n in names if getattr(a, n) != getattr(b, n)]
    steps = [_steps(connection, run) for run in (first, second)]
    for name in dict.fromkeys([*steps[0], *steps[1]]):
        one, other = steps[0].get(name), steps[1].get(name)
        if one is None or other is None:
            rows.append(
                SettingRow(name, "-" if one is None else one.key[:12], "-" if other is None else other.key[:12])
            )
        elif one.key != other.key:
            changed = [k for k in dict.fromkeys([*one.config_json, *other.config_json])
                       if one.config_json.get(k) != other.config_json.get(k)]  # fmt: skip
            rows += [SettingRow(f"{name}: {k}", _text(one.config_json.get(k)), _text(other.config_json.get(k)))
                     for k in changed]  # fmt: skip
            if not changed:
                rows.append(SettingRow(f"{name}: key (other inputs, seed or version)", one.key[:12], other.key[:12]))
    return rows


def _steps(connection: Connection, run_id: int) -> dict[str, Any]:
    found = connection.execute(
        select(Step.name, Step.key, Step.config_json)
        .join(RunStep, RunStep.step_id == Step.id)
        .where(RunStep.run_id == run_id)
        .order_by(RunStep.position)
    )
    return {s.name: s for s in found}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _row(
    table: str, what: str, unit: str, n: int | None, first: Interval | None, second: Interval | None,
    difference: Interval | None, pairing: str | None, reason: str | None = None, *, p_value: float | None = None,
    note: str | None = None,
) -> CompareRow:  # fmt: skip
    values: dict[str, float | None] = {}
    for name, found in (("first", first), ("second", second), ("difference", difference)):
        values |= {name: found.estimate if found else None}
        values |= {f"{name}_ci_low": finite(found.low) if found else None}
        values |= {f"{name}_ci_high": finite(found.high) if found else None}
    if difference is None and reason is None and (first is None or second is None):
        reason = "only one of the runs has it"
    return CompareRow(table=table, what=what, unit=unit, n=n, pairing=pairing if difference else None, p_value=p_value,
                      reason=reason, note=note, **values)  # fmt: skip


def _interval(value: float, low: float | None, high: float | None) -> Interval:
    return Interval(value, -math.inf if low is None else low, math.inf if high is None else high)


def _benchmarks(connection: Connection, first: int, second: int) -> Iterator[CompareRow]:
    one, other = (item_scores(connection, run) for run in (first, second))
    for benchmark in dict.fromkeys([*one, *other]):
        a, b = one.get(benchmark, {}), other.get(benchmark, {})
        for variant in dict.fromkeys([*a, *b]):
            what = f"{variant} on {benchmark}"
            if variant not in a or variant not in b:
                means = [mean_score(list(v[variant].scores.values())) if variant in v else None for v in (a, b)]
                n = len((a if variant in a else b)[variant].scores)
                yield _row("benchmarks", what, "score", n, means[0], means[1], None, None)
                continue
            shared, note = paired_scores({"first run": a[variant], "second run": b[variant]})
            x, y = shared["first run"], shared["second run"]
            if not x:
                yield _row("benchmarks", what, "score", 0, None, None, None, None, "the runs share no item")
                continue
            yield _row("benchmarks", what, "score", len(x), mean_score(x), mean_score(y), paired_difference(y, x),
                       "items", p_value=_mcnemar(y, x), note=note)  # fmt: skip


def _mcnemar(a: list[float], b: list[float]) -> float | None:
    """McNemar's exact p where every score is right or wrong."""
    return stats.mcnemar_exact(a, b) if {*a, *b} <= {0.0, 1.0} else None


def _ablations(connection: Connection, first: int, second: int) -> Iterator[CompareRow]:
    one, other = (_scores_by_place(connection, run) for run in (first, second))
    for place in dict.fromkeys([*one, *other]):
        a, b = one.get(place), other.get(place)
        intervals = [_interval(r.kl_nats, r.kl_ci_low, r.kl_ci_high) if r else None for r in (a, b)]
        difference, reason, n = None, None, min(r.n_documents for r in (a, b) if r is not None)
        if a is not None and b is not None:
            difference, reason = _document_difference(a, b)
        yield _row("ablations", place, "nats per token", n, intervals[0], intervals[1], difference, "documents", reason)


def _scores_by_place(connection: Connection, run_id: int) -> dict[str, Any]:
    """What is off (and set to what, by which step) -> its row; the newest of each."""
    found = connection.execute(
        select(AblationScore.__table__, Step.plugin)
        .join(Step, Step.id == AblationScore.step_id)
        .where(AblationScore.step_id.in_(own_steps(run_id)))
        .order_by(AblationScore.id)
    )
    return {f"{r.plugin or 'ablation'}: {r.item}": r for r in found}


def _document_difference(a: Any, b: Any) -> tuple[Interval | None, str | None]:
    """Difference of the two KLs, bootstrapped over the documents that both were measured on."""
    lists = (a.document_kl_nats_json, b.document_kl_nats_json, a.document_n_tokens_json, b.document_n_tokens_json)
    if not all(lists):
        return None, "KLs of single documents are not stored for it, so the runs cannot be paired"
    if lists[2] != lists[3]:
        return None, "the runs measured it on different documents (or different tokens of them)"
    n_tokens = [float(n) for n in lists[2]]
    steps = [(kl_b - kl_a) * n for kl_a, kl_b, n in zip(lists[0], lists[1], n_tokens, strict=True)]
    return stats.ratio_over_documents(steps, n_tokens), None


def _dictionaries(connection: Connection, first: int, second: int) -> Iterator[CompareRow]:
    one, other = (_scores_by_dictionary(connection, run) for run in (first, second))
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        fvu = [_interval(r.fvu, r.fvu_ci_low, r.fvu_ci_high) if r else None for r in (a, b)]
        difference = independent_difference(fvu[1], fvu[0]) if fvu[0] and fvu[1] else None
        note = None if difference is None else "from the two intervals: FVUs of single documents are not stored"
        n = min(r.n_documents for r in (a, b) if r is not None)
        yield _row("dictionaries", f"{name}: FVU", "share of variance", n, fvu[0], fvu[1], difference, "independent",
                   note=note)  # fmt: skip


def _scores_by_dictionary(connection: Connection, run_id: int) -> dict[str, Any]:
    table = DictionaryScore
    own = select(table.__table__).where(table.step_id.in_(own_steps(run_id))).order_by(table.id)
    return {r.name: r for r in connection.execute(own)}


def _grades(connection: Connection, first: int, second: int) -> Iterator[CompareRow]:
    one, other = (
        {(g.source, g.interpreter): g for g in grades(connection, run) if g.grade == 0} for run in (first, second)
    )
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        shares = [_interval(g.share, g.share_ci_low, g.share_ci_high) if g else None for g in (a, b)]
        difference = independent_difference(shares[1], shares[0]) if shares[0] and shares[1] else None
        n = min(g.n_features for g in (a, b) if g is not None)
        note = None if difference is None else "two adapters' features are not the same things: not paired"
        yield _row("grades", f"{key[0]} by {key[1]}: monosemantic", "share", n, shares[0], shares[1], difference,
                   "independent", note=note)  # fmt: skip
