"""How good the dictionaries are, on held-out documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text
from sqlalchemy import Connection, select

from harness import stats
from harness.contract.cells import Cell, count, fixed, lines, percent, significant, text, visible, with_interval
from harness.contract.report import Column, Report
from harness.records.base import Estimate
from harness.reports.common.differences import independent_difference
from harness.reports.common.rows import cached_query, estimate, plan_order, row_from, run_steps
from harness.store.schema import Dictionary, DictionaryScore

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 60, 12
SAME_L0 = 0.02
"""Share of an L0 within which another is the same."""
_MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class DictionaryRow:
    """One dictionary on held-out documents. FVU is the share of variance unexplained; KLs are nats per token.

    `frontier`: no dictionary of the same activations is told apart as sparser or closer without being told apart as the
    opposite in the other. `stable_share`: pairs of latents with a cosine above 0.9. `chance_cosine`: the stability of
    latents matched with random directions. `density_histogram` counts alive latents per half
    decade of active tokens per token, from 1e-6 to 1, lowest first.
    """

    name: str
    k: float
    n_latents: int
    n_alive: int
    signed: bool
    fvu: Estimate
    l0: Estimate
    frontier: bool
    kl_splice_nats: Estimate | None
    kl_base_nats: Estimate | None
    kl_recovered: Estimate | None
    stability: Estimate | None
    n_matched: int
    stable_share: Estimate | None
    chance_cosine: float | None
    activations: str | None
    density_histogram: str | None
    n_tokens_alive: int
    n_tokens: int
    n_documents: int
    n_splice_documents: int
    reason: str | None
    n_splice_tokens: int = 0
    kl_recovered_prompt: Estimate | None = None
    kl_recovered_trace: Estimate | None = None
    kl_recovered_answer: Estimate | None = None
    kl_recovered_all: Estimate | None = None
    kl_splice_nats_prompt: Estimate | None = None
    kl_splice_nats_all: Estimate | None = None
    kl_base_nats_prompt: Estimate | None = None
    kl_base_nats_all: Estimate | None = None
    n_splice_tokens_prompt: int = 0
    n_splice_tokens_all: int = 0


@dataclass(frozen=True)
class FittedRow:
    """A fitted dictionary and where it is."""

    name: str
    n_latents: int
    n_columns: int
    k: float
    signed: bool
    path: str


@cached_query
def dictionaries(connection: Connection, run_id: int) -> list[DictionaryRow]:
    """Every dictionary's scores, in the order in which they were stored."""
    scores = connection.execute(
        select(DictionaryScore.__table__)
        .where(DictionaryScore.step_id.in_(run_steps(run_id)))
        .order_by(*plan_order(run_id, DictionaryScore))
    ).all()
    return [
        row_from(
            DictionaryRow,
            r,
            frontier=not any(_dominates(other, r) for other in scores),
            density_histogram=" ".join(map(str, r.density_histogram_json or [])) or None,
        )
        for r in scores
    ]


def fitted_dictionaries(connection: Connection, run_id: int) -> list[FittedRow]:
    """The run's dictionaries, in the order in which they were fitted."""
    stored = connection.execute(
        select(Dictionary.__table__)
        .where(Dictionary.step_id.in_(run_steps(run_id)))
        .order_by(*plan_order(run_id, Dictionary))
    )
    return [row_from(FittedRow, r, n_columns=len(r.columns_json)) for r in stored]


def _dominates(a: Any, b: Any) -> bool:
    """Whether a is told apart from b as better in FVU or L0, and in neither as worse.

    Intervals are of the paired difference over held-out documents. L0s within `SAME_L0` of each other are the same: all
    thresholds are set for one L0 on training documents, and held-out ones differ from those by that much.
    """
    if a is b or a.activations != b.activations:
        return False
    fvu, l0 = _differences(a, b)
    differences = [fvu] if abs(l0.value) <= SAME_L0 * b.l0 else [fvu, l0]
    return any(d.high < 0 for d in differences) and not any(d.low > 0 for d in differences)


def _differences(a: Any, b: Any) -> tuple[Estimate, Estimate]:
    """FVU and L0 of a less those of b: paired over documents where their sums are stored."""
    first, second = (np.array(row.by_document_json or [], dtype=np.float64) for row in (a, b))
    if not len(first) or first.shape != second.shape:
        pairs = ((estimate(a, name), estimate(b, name)) for name in ("fvu", "l0"))
        fvu, l0 = (independent_difference(x, y) for x, y in pairs if x is not None and y is not None)
        return fvu, l0
    difference = first - second
    paired = ((difference[:, top], first[:, bottom]) for top, bottom in ((0, 1), (2, 3)))
    fvu, l0 = (stats.ratio_over_documents(numerators, denominators) for numerators, denominators in paired)
    return fvu, l0


def _name(row: DictionaryRow) -> Cell:
    """Name and target, and whether it is on the frontier; the cell of a grid on a line of its own."""
    plugin, _, cell = row.name.partition("@")
    return tuple(filter(None, (plugin, cell or f"k={row.k:g}", "frontier" if row.frontier else "")))


def _latents(row: DictionaryRow) -> Cell:
    """Size, how many are alive, and how dense those are: a bar per half decade from 1e-6 to 1."""
    size = f"{count(row.n_latents)}{' signed' if row.signed else ''}"
    counts = [int(n) for n in (row.density_histogram or "").split()]
    most = max(counts, default=0)
    bars = "".join("·" if n == 0 else _BARS[(8 * n - 1) // most] for n in counts) if most else ""
    return tuple(filter(None, (size, f"{count(row.n_alive)} alive", bars)))


def _stability(row: DictionaryRow) -> Cell:
    """Mean cosine over its interval, how many pairs are the same latent, and what chance makes."""
    if row.stability is None or row.stable_share is None:
        return with_interval(row.stability, lambda v: fixed(v, 2))
    mean = lines(with_interval(row.stability, lambda v: fixed(v, 2)))
    return (
        *mean,
        f"{percent(row.stable_share.value)} of {count(row.n_matched)} > .9",
        f"chance {fixed(row.chance_cosine, 2)}",
    )


def _recovered(row: DictionaryRow) -> Cell:
    """Share of the adapter's KL recovered over its interval, and the KL that is left."""
    if row.kl_recovered is None or row.kl_splice_nats is None:
        return text(None)
    beside = {"prompt": row.kl_recovered_prompt, "all": row.kl_recovered_all}
    return (
        *lines(with_interval(row.kl_recovered, percent)),
        f"{significant(row.kl_splice_nats.value, 2)} nats",
        *(f"{name} {percent(share.value, 1)}" for name, share in beside.items() if share),
    )


def _frontier(rows: Sequence[DictionaryRow]) -> RenderableType | None:
    """FVU over L0, a letter per dictionary, those on the frontier bold; None where all have the same target."""
    if len({r.k for r in rows}) < 2:
        return None
    xs, ys = [r.l0.value for r in rows], [r.fvu.value for r in rows]
    high_x, high_y = max(xs) * 1.05 or 1.0, max(min(max(ys), 1.5) * 1.05, 1e-9)
    grid: dict[tuple[int, int], int] = {}
    for i, row in enumerate(rows):
        x = round(row.l0.value / high_x * (_WIDTH - 1))
        y = round(min(row.fvu.value, high_y) / high_y * (_HEIGHT - 1))
        while (x, y) in grid and x < _WIDTH - 1:
            x += 1
        grid[x, y] = i
    drawn = Text("FVU\n", style="dim")
    for line in range(_HEIGHT - 1, -1, -1):
        label = f"{high_y * line / (_HEIGHT - 1):.2f}" if line % 3 == 2 or line == 0 else ""
        drawn.append(f"{label:>5} │", style="dim")
        for x in range(_WIDTH):
            place = grid.get((x, line))
            if place is None:
                drawn.append(" ")
            else:
                drawn.append(_mark(place), style=_style(rows[place]))
        drawn.append("\n")
    drawn.append("      └" + "─" * _WIDTH + "\n", style="dim")
    drawn.append(f"       0{f'{high_x:.3g} latents per token (L0)':>{_WIDTH - 1}}\n", style="dim")
    for i, row in enumerate(rows):
        drawn.append(f"  {_mark(i)} {visible(row.name)}", style=_style(row))
    return drawn


def _style(row: DictionaryRow) -> str:
    return "bold green" if row.frontier else ""


def _mark(index: int) -> str:
    return _MARKS[index] if index < len(_MARKS) else "*"


REPORT = Report[DictionaryRow](
    "dictionaries",
    "Dictionaries, on held-out documents",
    dictionaries,
    (
        Column("dictionary", _name, "left"),
        Column("latents", _latents),
        Column("L0", lambda r: with_interval(r.l0, lambda v: fixed(v, 2))),
        Column("FVU", lambda r: with_interval(r.fvu, lambda v: significant(v, 2))),
        Column("KL recovered", _recovered),
        Column("stability", _stability, leaves=2),
        Column("on", lambda r: (f"{count(r.n_tokens)} tokens", f"{count(r.n_documents)} documents"), leaves=1),
    ),
    ("learn", "judge"),
    "dictionaries",
    order=120,
    label=lambda r: r.name,
    legend=(
        "FVU: share of variance unexplained, 0 is perfect. KL recovered = 1 - KL(adapter || adapter with its scalars "
        "replaced by the reconstruction) / KL(adapter || base): 100 % is a perfect splice, 0 % is as far as the base "
        "model; over the response (trace and answer); below it the first of these KLs, per token, and what is "
        "recovered over the prompt and over all tokens. Stability: mean cosine of latents matched with those of "
        "another seed; below it the pairs with a cosine above 0.9, and what as many random directions reach. Bars: "
        "alive latents by density (active tokens per token), 1e-6 to 1. 95 % intervals: "
        "bootstrap-t over documents (stability: over latents). Frontier: of the dictionaries of "
        "the same activations none is told apart (paired over documents) as better in FVU or L0 without being told "
        "apart as worse in the other; L0s within 2 % count as the same."
    ),
    picture=_frontier,
)
