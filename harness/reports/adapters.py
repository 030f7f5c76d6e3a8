"""Several adapters on one base: each pair of them by weights and by shared features."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from harness.contract.cells import ABSENT, Cell, count, fixed, significant
from harness.contract.report import Column, Report
from harness.records import ModuleOverlap, SharedFeature
from harness.reports.steps import steps
from harness.store.read import records_of

LEVEL = 0.05
"""p-value from which a feature counts as shared."""


@dataclass(frozen=True)
class AdapterPairRow:
    """Two adapters. Means are over the modules that both change, medians over the components of both.

    `n_*_correlated` counts components whose best correlation no shuffle explains (p <= 0.05 over all), `n_*_shared`
    those of them that also exceed the largest correlation of any of the adapter's components with any random direction;
    where two adapters share nothing that is about one.
    """

    first: str
    second: str
    n_modules: int
    weight_cosine: float | None
    weight_null: float | None
    read_overlap: float | None
    read_null: float | None
    write_overlap: float | None
    write_null: float | None
    n_first: int
    n_first_correlated: int
    n_first_shared: int | None
    n_second: int
    n_second_correlated: int
    n_second_shared: int | None
    median_correlation: float | None
    median_random: float | None
    median_shuffled: float | None
    reason: str | None


def adapters(connection: Connection, run_id: int) -> list[AdapterPairRow]:
    """A row per pair, in the study's order."""
    overlaps = records_of(connection, ModuleOverlap, run_id=run_id)
    features = records_of(connection, SharedFeature, run_id=run_id)
    pairs = dict.fromkeys([(r.first, r.second) for r in overlaps])
    pairs |= {(f.first, f.second): None for f in features if (f.second, f.first) not in pairs}
    return [
        _row(
            pair,
            [r for r in overlaps if (r.first, r.second) == pair],
            [f for f in features if (f.first, f.second) == pair],
            [f for f in features if (f.second, f.first) == pair],
        )
        for pair in pairs
    ]


def several(connection: Connection, run_id: int) -> bool:
    """Whether the run compares adapters."""
    return any(step.kind == "compare" for step in steps(connection, run_id))


def _row(
    pair: tuple[str, str], modules: Sequence[ModuleOverlap], first: Sequence[SharedFeature],
    second: Sequence[SharedFeature],
) -> AdapterPairRow:  # fmt: skip
    whole = [m for m in modules if m.weight_cosine is not None]
    live = [f for f in (*first, *second) if f.correlation is not None]
    reasons = [] if whole else ["they change no module in common"]
    reasons += [] if live else ["the scalars of both are not read: add adapter-activations to the study's probes"]
    return AdapterPairRow(
        first=pair[0],
        second=pair[1],
        n_modules=len(whole),
        weight_cosine=_mean([abs(m.weight_cosine) for m in whole if m.weight_cosine is not None]),
        weight_null=_mean([m.weight_null for m in whole]),
        read_overlap=_mean([m.read_overlap for m in whole if m.read_overlap is not None]),
        read_null=_mean([m.read_null for m in whole]),
        write_overlap=_mean([m.write_overlap for m in whole if m.write_overlap is not None]),
        write_null=_mean([m.write_null for m in whole]),
        n_first=len(first),
        n_first_correlated=len(_correlated(first)),
        n_first_shared=_n_shared(first),
        n_second=len(second),
        n_second_correlated=len(_correlated(second)),
        n_second_shared=_n_shared(second),
        median_correlation=_median([abs(f.correlation) for f in live if f.correlation is not None]),
        median_random=_median([f.random for f in live if f.random is not None]),
        median_shuffled=_median([f.shuffled for f in live]),
        reason="; ".join(reasons) or None,
    )


def _correlated(features: Sequence[SharedFeature]) -> list[float]:
    """|correlation| of those that no shuffle explains."""
    return [abs(f.correlation or 0.0) for f in features if f.p_value is not None and f.p_value <= LEVEL]


def _n_shared(features: Sequence[SharedFeature]) -> int | None:
    random = [f.random for f in features if f.random is not None]
    return sum(r > max(random) for r in _correlated(features)) if random else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _against(value: float | None, null: float | None) -> Cell:
    return ABSENT if value is None else (significant(value), f"null {significant(null)}")


def _shared(row: AdapterPairRow) -> Cell:
    if not row.n_first:
        return ABSENT
    if row.n_first_shared is None or row.n_second_shared is None:
        return (f"1st {row.n_first_correlated} of {row.n_first}", f"2nd {row.n_second_correlated} of {row.n_second}",
                "no random")  # fmt: skip
    return (f"1st {row.n_first_shared} of {row.n_first}", f"2nd {row.n_second_shared} of {row.n_second}")


def _correlation(row: AdapterPairRow) -> Cell:
    if row.median_correlation is None:
        return ABSENT
    random = [] if row.median_random is None else [f"random {fixed(row.median_random, 2)}"]
    return (fixed(row.median_correlation, 2), *random, f"shuffled {fixed(row.median_shuffled, 2)}")


REPORT = Report[AdapterPairRow](
    "adapters",
    "Several adapters on one base",
    adapters,
    (
        Column("adapters", lambda r: (r.first, r.second), "left"),
        Column("modules", lambda r: count(r.n_modules), leaves=1),
        Column("weights", lambda r: _against(r.weight_cosine, r.weight_null)),
        Column("reads", lambda r: _against(r.read_overlap, r.read_null)),
        Column("writes", lambda r: _against(r.write_overlap, r.write_null)),
        Column("shared", _shared),
        Column("best |r|", _correlation),
    ),
    ("compare",),
    "pairs of adapters",
    order=35,
    label=lambda r: f"{r.first} {r.second}",
    legend=(
        "Weights: |cosine| of scaling * B A, mean over modules; null: of one turned at random. Reads, writes: mean "
        "squared cosine of the principal angles of the spaces of a, of b; null: random spaces. Shared: components of "
        "the 1st (2nd) adapter whose scalar correlates with the other's best more than any pair does after shuffles of "
        "the tokens within documents (max-T, p <= .05 over all), and more than any of its components does with any "
        "random direction at the same inputs; about one does by luck. No random: the study reads none, and shuffles "
        "alone prove little. Best |r|: medians over the components of both."
    ),
    after=("adapter-scores", "adapter-modules", "shared-features"),
    unasked=several,
)
