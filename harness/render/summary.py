"""A run on one screen: recovery, where the effect sits, features worth seeing, controls, what to look at next.

`harness report` prints it, and the dashboard's overview begins with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text
from sqlalchemy import Connection, and_, select

from harness.contract.cells import count, fixed, inline, percent, short, significant, visible
from harness.contract.wrapping import wrapped
from harness.records import PLANTED
from harness.render.formats.fit import TextColumn
from harness.render.formats.table import print_columns, print_lines, print_prose
from harness.render.loading import why_empty
from harness.reports.common.ablations import per_token
from harness.reports.common.controls import controls, points, verdict
from harness.reports.common.heat import HeatMap, HeatRow
from harness.reports.common.rows import run_steps
from harness.reports.components import components, heat_maps
from harness.reports.features import context_of_highest
from harness.reports.grades import ShareRow, monosemantic_shares
from harness.reports.recovery import recovery
from harness.reports.scores import detection
from harness.store.schema import Coverage, DictionaryScore, Explanation, ExplanationScore, LatentEffect

MOST_BENCHMARKS, MOST_ROWS, MOST_FEATURES, MOST_CONTROLS = 3, 7, 3, 2
"""Of each part, so that the whole is a screen of 40 lines at 80 columns."""

CLEAR_ACCURACY, CLEAR_PURITY = 0.75, 0.5
"""Balanced accuracy of detection (chance 0.5) and purity from which an explanation says what a feature is."""

LINE = 76
"""Characters of an explanation or a context."""


@dataclass(frozen=True)
class Item:
    """A line, what stands below it, and the feature (source, name) that it is of."""

    head: str
    below: tuple[str, ...] = ()
    feature: tuple[str, str] | None = None


@dataclass(frozen=True)
class Section:
    """One question and its answer: a table, a heat map, items; or why there is none."""

    heading: str
    table: tuple[TextColumn, ...] = ()
    heat: HeatMap | None = None
    items: tuple[Item, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """For the dashboard."""
        rows = zip(*(column.cells for column in self.table), strict=True)
        return {
            "heading": visible(self.heading),
            "columns": [{"header": c.header, "justify": c.justify, "wide": False} for c in self.table],
            "rows": [[list(cell) for cell in row] for row in rows],
            "heat": self.heat and self.heat.as_data(),
            "items": [
                {"head": visible(i.head), "below": [visible(line) for line in i.below], "feature": i.feature}
                for i in self.items
            ],
        }


def summary(connection: Connection, run_id: int) -> list[Section]:
    """The parts of the screen but for the last line, which is another on the dashboard."""
    return [
        _recovery(connection, run_id),
        _effect(connection, run_id),
        _features(connection, run_id),
        _controls(connection, run_id),
    ]


def _recovery(connection: Connection, run_id: int) -> Section:
    rows = recovery(connection, run_id)
    heading = "Recovery: how much of the full fine-tune's gain the adapter has"
    if not rows:
        return Section(heading, items=(Item(why_empty(connection, run_id, ("evaluate",), "evaluations")),))
    top, more = rows[:MOST_BENCHMARKS], len(rows) - MOST_BENCHMARKS

    def column(header: str, cells: Sequence[str], side: Any = "right", leaves: int | None = None) -> TextColumn:
        return TextColumn(header, [(visible(cell),) for cell in cells], side, leaves=leaves)

    table = (
        column("benchmark", [r.benchmark for r in top], "left"),
        column("n", [count(r.n_items) for r in top]),
        *(column(v, [_value(getattr(r, v)) for r in top], leaves=i) for i, v in enumerate(("base", "adapter", "full"))),
        column("recovery", [inline(r.recovery, percent) for r in top]),
    )
    items = [Item(f"{r.benchmark}: {r.reason}") for r in top if r.recovery is None and r.reason]
    items += [Item(f"and {more} more: harness report recovery")] if more > 0 else []
    return Section(heading, table, items=tuple(items))


def _effect(connection: Connection, run_id: int) -> Section:
    rows = components(connection, run_id)
    found = heat_maps(rows)
    unit = per_token(rows[0].segment) if rows else "nats"
    heading = f"Where the effect sits: KL with a component off, {unit}"
    if not found:
        return Section(heading, items=(Item(why_empty(connection, run_id, ("ablate",), "components switched off")),))
    heat = found[0]
    of_cells = [row for row in heat.rows if not (row.apart or row.plain)]
    strongest = sorted(of_cells, key=_largest, reverse=True)[:MOST_ROWS]
    heat = HeatMap(heading, heat.layers, tuple(row for row in of_cells if row in strongest))
    most = max((r for r in rows if r.scope == "component"), key=lambda r: r.kl_nats.value)
    share = "" if most.share_of_adapter_kl is None else f", {percent(most.share_of_adapter_kl)} of the adapter's"
    said = Item(f"Most: {most.component}, {inline(most.kl_nats, significant)} nats{share}")
    return Section(f"{heading} ({heat.scale.in_words()})", heat=heat, items=(said,))


def _largest(row: HeatRow) -> float:
    return max(v for v in row.values if v is not None)


@dataclass(frozen=True)
class _Candidate:
    """A feature with the numbers by which it is worth seeing; `effect` is a share of the adapter's KL."""

    source: str
    feature: str
    explanation: str
    accuracy: float
    purity: float
    effect: float | None

    @property
    def clear(self) -> bool:
        """Whether the explanation says what the feature is."""
        return self.accuracy >= CLEAR_ACCURACY and self.purity >= CLEAR_PURITY

    @property
    def worth(self) -> tuple[bool, bool, float]:
        """Clear features first, of these the ones whose effect was measured, by it; the others by score and purity."""
        by_reading = max(2 * self.accuracy - 1, 0.0) * self.purity
        return self.clear, self.effect is not None, by_reading if self.effect is None else self.effect


def _features(connection: Connection, run_id: int) -> Section:
    heading = "Features worth seeing: clear by held-out score and purity, largest effect"
    best: dict[str, _Candidate] = {}  # one for each explanation
    for candidate in sorted(_candidates(connection, run_id), key=lambda c: c.worth, reverse=True):
        if best and not candidate.clear:  # one alone shows what is there
            break
        best.setdefault(candidate.explanation, candidate)
        if len(best) == MOST_FEATURES:
            break
    if not best:
        why = why_empty(connection, run_id, ("score", "cover"), "features with a held-out score and purity")
        return Section(heading, items=(Item(why),))
    if not any(c.clear for c in best.values()):
        heading = "Features worth seeing: none is clear by held-out score and purity; the best"
    return Section(heading, items=tuple(_item(connection, run_id, c) for c in best.values()))


def _item(connection: Connection, run_id: int, c: _Candidate) -> Item:
    effect = "effect not measured" if c.effect is None else f"off: {percent(c.effect, 1)} of the adapter's KL"
    name = f"{c.source} {c.feature}: "
    return Item(
        name + short(c.explanation, max(LINE - len(name), 20)),
        (
            f"detection {fixed(c.accuracy, 2)} (chance 0.5), purity {percent(c.purity)}, {effect}",
            short(context_of_highest(connection, run_id, c.source, c.feature), LINE),
        ),
        (c.source, c.feature),
    )


def _candidates(connection: Connection, run_id: int) -> Iterator[_Candidate]:
    """Explained features with a held-out score and purity, without controls and planted ones."""
    e, s, c, steps = Explanation, ExplanationScore, Coverage, run_steps(run_id)

    def same(other: Any) -> Any:
        return and_(
            other.source == e.source,
            other.feature == e.feature,
            other.interpreter == e.interpreter,
            other.step_id.in_(steps),
        )

    rows = connection.execute(
        select(e.source, e.feature, e.explanation, s.balanced_accuracy, c.purity)
        .select_from(e)
        .join(s, and_(same(s), s.kind == "detection"))
        .join(c, same(c))
        .where(e.step_id.in_(steps), e.explanation.is_not(None), e.source != PLANTED)
        .where(s.balanced_accuracy.is_not(None), c.purity.is_not(None))
        .order_by(e.id, s.id, c.id)
    )
    newest = {(row.source, row.feature): row for row in rows}
    left_out = set(controls(connection, run_id).values())
    of_latents = _effects(connection, run_id)
    of_components = {r.component: r.share_of_adapter_kl for r in components(connection, run_id)}
    for row in newest.values():
        if row.source not in left_out:
            name = row.feature.rstrip("+-")  # either sign of a direction or a signed latent
            yield _Candidate(*row, of_latents.get((row.source, name), of_components.get(name)))


def _effects(connection: Connection, run_id: int) -> dict[tuple[str, str], float]:
    """(dictionary, latent) -> KL without it as a share of the KL without the adapter."""
    d, x, steps = DictionaryScore, LatentEffect, run_steps(run_id)
    whole = connection.execute(
        select(d.name, d.kl_base_nats).where(d.step_id.in_(steps), d.kl_base_nats > 0).order_by(d.id)
    )
    base = {r.name: r.kl_base_nats for r in whole}
    of_latents = connection.execute(
        select(x.source, x.latent, x.kl_nats).where(x.step_id.in_(steps), x.source.in_(base)).order_by(x.id)
    )
    return {(r.source, r.latent): r.kl_nats / base[r.source] for r in of_latents}


def _controls(connection: Connection, run_id: int) -> Section:
    """In words whether readings exceed those of the controls."""
    readings: dict[tuple[str, str], list[str]] = {}
    for what, rows in (
        ("monosemantic", monosemantic_shares(connection, run_id)),
        ("detection", detection(connection, run_id)),
    ):
        for row in rows:
            value = row.share if isinstance(row, ShareRow) else row.balanced_accuracy
            if row.above_control is not None and row.control is not None and value is not None:
                told = (
                    f"{what} {percent(value.value)}, {points(row.above_control)} points: {verdict(row.above_control)}"
                )
                readings.setdefault((row.source, row.control), []).append(told)
    heading = "Do readings exceed their controls?"
    if not readings:
        why = "no source of features has a control in this run; the probe random-directions is one"
        return Section(heading, items=(Item(why),))
    found = [f"{source} against {control}: {'; '.join(told)}." for (source, control), told in readings.items()]
    more = (
        [f"and {len(found) - MOST_CONTROLS} more: harness report grades scores"] if len(found) > MOST_CONTROLS else []
    )
    return Section(heading, items=tuple(map(Item, [*found[:MOST_CONTROLS], *more])))


def _value(number: Any) -> str:
    return fixed(number.value) if number is not None else "-"


def _item_lines(item: Item, width: int) -> Iterator[str]:
    """An item in a width: its first line, those below indented."""
    first, *rest = wrapped(visible(item.head), width)
    yield first
    yield from (f"  {line}" for line in rest)
    for below in item.below:
        yield from (f"    {line}" for line in wrapped(visible(below), width - 4))


NEXT = (
    "Next: harness report --all (every table), harness report features latents",
    "      harness dashboard (every feature with its contexts, in a browser)",
)
"""What to run or open next."""


def print_summary(title: str, sections: Sequence[Section], console: Console) -> None:
    """Print the screen of a run, and where to go from it."""
    print_prose(console, title, "bold")
    for section in sections:
        console.print()
        print_prose(console, section.heading, "bold underline")
        if section.table:
            print_columns(section.table, console, compact=True)
        if section.heat:
            console.print(Text("\n").join(section.heat.as_lines(console.width)), no_wrap=True, crop=False)
        for item in section.items:
            first, *below = _item_lines(item, console.width)
            print_lines(console, first, "bold" if item.below else "")
            if below:
                print_lines(console, "\n".join(below))
    console.print()
    for line in NEXT:
        print_prose(console, line, "dim")
