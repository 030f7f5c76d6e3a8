"""Every figure by name: which rows it shows, how it is drawn, and what its caption says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from sqlalchemy import Connection

from harness.report.figures.agreement import confusion_figure
from harness.report.figures.categories import categories_figure
from harness.report.figures.components import components_figure
from harness.report.figures.donut import Slice, donut_figure
from harness.report.figures.frontier import frontier_figure
from harness.report.figures.recovery import recovery_figure
from harness.report.figures.style import Drawn, Theme, ThemeName, themed
from harness.report.figures.training import training_figure
from harness.report.figures.writer import file_stem
from harness.results import queries


@dataclass(frozen=True)
class Missing:
    """A figure that cannot be drawn, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """One drawing of a plot: what distinguishes it (source, mode), its title, caption and figure."""

    which: str | None
    title: str
    caption: str
    figure: Figure | None


@dataclass(frozen=True)
class Plot:
    """A figure of the catalogue.

    Attributes:
        name: what users type.
        section: the report whose numbers it shows.
        summary: what it shows.
        query: connection and run id -> rows.
        draw: rows (at least one) and theme -> pictures.
        stages: kinds of step that make such rows, for saying why there are none.
        what: the rows' name, plural.
    """

    name: str
    section: str
    summary: str
    query: Callable[[Connection, int], Sequence[Any]]
    draw: Callable[[Sequence[Any], Theme], Iterator[Picture]]
    stages: tuple[str, ...]
    what: str


def draw_figures(
    connection: Connection, run_id: int, theme: ThemeName = "light", names: Sequence[str] | None = None
) -> Iterator[Drawn | Missing]:
    """Draw figures of a run, in the order of the paper; one that has no data is `Missing`, with the reason.

    Args:
        connection: to the database.
        run_id: the run.
        theme: `light` or `dark`.
        names: of `FIGURES`; all of them if not given.
    """
    for name in FIGURES if names is None else names:
        plot = FIGURES[name]
        rows = plot.query(connection, run_id)
        drawn = list(_drawn(plot, rows, theme)) if rows else []
        if drawn:
            yield from drawn
        elif rows:
            yield Missing(name, f"{name}: the run has {plot.what}, but none that this figure shows")
        else:
            yield Missing(name, f"{name}: {queries.why_empty(connection, run_id, plot.stages, plot.what)}")


def _drawn(plot: Plot, rows: Sequence[Any], theme: ThemeName) -> Iterator[Drawn]:
    with themed(theme) as colours:
        pictures = list(plot.draw(rows, colours))
    for p in pictures:
        if p.figure is not None:
            yield Drawn(plot.name, file_stem(plot.name, p.which), p.title, p.caption, theme, p.figure)


def _recovery(rows: Sequence[queries.RecoveryRow], theme: Theme) -> Iterator[Picture]:
    caption = (
        "Scores of base, adapter and full fine-tune (Wilson intervals), and recovery = (adapter - base) / "
        "(full - base), paired by item (Fieller intervals), all 95 %; arrows: the interval goes on, or is unbounded."
    )
    if any(r.paper_recovery is not None for r in rows):
        caption += " Diamonds: the paper's recovery, of another model on another benchmark."
    yield Picture(None, "Recovery", caption, recovery_figure(rows, theme))


def _figure1(rows: Sequence[queries.CategoryRow], theme: Theme) -> Iterator[Picture]:
    for interpreter in dict.fromkeys(r.interpreter for r in rows):
        own = [r for r in rows if r.interpreter == interpreter]
        caption = (
            f"Share of each source's features per category, categorised by {interpreter or 'unknown'}. "
            "95 % intervals: bootstrap by layer, Wilson at least. Failures stay in n."
        )
        yield Picture(interpreter, "Categories by source", caption, categories_figure(own, theme))


def _slices(rows: Sequence[queries.DensityRow]) -> list[Slice]:
    """Categories as shares of the source; a category that is divided as its subcategories."""
    slices = []
    for whole in (r for r in rows if r.by == "source"):
        parts = [r for r in rows if r.by == "subcategory" and r.category == whole.category]
        density = whole.density or 0.0
        n = sum(r.n_features for r in parts)
        if n == whole.n_features:
            named = [(r.subcategory_name or r.subcategory, density * (r.density or 0.0)) for r in parts]
            slices += [Slice(whole.category, whole.name, part, name) for name, part in named]
        else:
            slices.append(Slice(whole.category, whole.name, density))
    return slices


def _figure2(rows: Sequence[queries.DensityRow], theme: Theme) -> Iterator[Picture]:
    for interpreter in dict.fromkeys(r.interpreter for r in rows):
        own = [r for r in rows if r.interpreter == interpreter]
        whole = sorted((r for r in own if r.by == "source"), key=lambda r: -(r.density or 0.0))
        order = list(dict.fromkeys(r.category for r in whole))
        for source in dict.fromkeys(r.source for r in own):
            mine = [r for r in own if r.source == source]
            n = sum(r.n_features for r in mine if r.by == "source")
            caption = (
                f"Summed activations of {source}'s {n:,} features over tokens, by category, as shares; categorised by "
                f"{interpreter or 'unknown'}. Intervals: harness report densities."
            )
            figure = donut_figure(_slices(mine), theme, source=source, n_features=n, order=order)
            yield Picture(f"{source}-{interpreter}", f"Activation density by category: {source}", caption, figure)


def _figure3(rows: Sequence[queries.ComponentRow], theme: Theme) -> Iterator[Picture]:
    for mode in dict.fromkeys(r.mode for r in rows):
        own = [r for r in rows if r.mode == mode and r.scope in ("layer", "component")]
        if not own:
            continue
        n_tokens, n_documents = max(r.n_tokens for r in own), max(r.n_documents for r in own)
        caption = (
            f"KL(adapter || ablated) in nats per token with whole layers (bars, 95 % intervals by bootstrap over "
            f"documents) and single components (cells) set to {mode}; {n_tokens:,} tokens of {n_documents:,} documents."
        )
        yield Picture(mode, f"Components set to {mode}", caption, components_figure(own, theme, mode=mode))


def _frontier(rows: Sequence[queries.DictionaryRow], theme: Theme) -> Iterator[Picture]:
    tokens, documents = max(r.n_tokens for r in rows), max(r.n_documents for r in rows)
    caption = (
        f"FVU (0 is perfect, 1 is the mean; 95 % intervals by bootstrap over documents) against L0, on {tokens:,} "
        f"tokens of {documents:,} held-out documents."
    )
    yield Picture(None, "Dictionaries: FVU by L0", caption, frontier_figure(rows, theme))


def _training(rows: Sequence[queries.TrainingRow], theme: Theme) -> Iterator[Picture]:
    names = len({(r.kind, r.name) for r in rows})
    caption = f"Losses as logged during training, unsmoothed: {names} trained, {len(rows):,} points."
    yield Picture(None, "Training", caption, training_figure(rows, theme))


def _confusion(rows: Sequence[queries.ConfusionRow], theme: Theme) -> Iterator[Picture]:
    for source, first, second in dict.fromkeys((r.source, r.first, r.second) for r in rows):
        own = [r for r in rows if (r.source, r.first, r.second) == (source, first, second)]
        n = sum(r.n for r in own)
        agree = sum(r.n for r in own if r.first_grade == r.second_grade)
        title, by = ("A judge and what is known", "") if first == queries.KNOWN else ("Agreement of judges", "by ")
        caption = f"Grades of {source}'s {n:,} features: {by}{first} (down) and by {second} (across); {agree:,} agree."
        yield Picture(f"{source}-{first}-{second}", title, caption, confusion_figure(own, theme))


FIGURES: dict[str, Plot] = {
    plot.name: plot
    for plot in (
        Plot("recovery", "recovery", "scores and recovery with intervals (table 1)", queries.recovery, _recovery,
             ("evaluate",), "evaluations"),
        Plot("figure1", "categories", "category shares by source", queries.categories, _figure1,
             ("categorise",), "categories"),
        Plot("figure2", "categories", "activation density by category and subcategory", queries.densities, _figure2,
             ("categorise",), "categories"),
        Plot("figure3", "components", "KL by layer and component", queries.components, _figure3, ("ablate",),
             "components switched off"),
        Plot("frontier", "dictionaries", "FVU by L0 of the dictionaries", queries.dictionaries, _frontier,
             ("learn",), "dictionaries"),
        Plot("training", "steps", "losses by step", queries.training, _training, ("train", "learn"), "losses"),
        Plot("confusion", "grades", "grades of planted features, and of two judges", queries.confusion, _confusion,
             ("plant", "interpret"), "features with a known grade or two interpreters"),
    )
}  # fmt: skip
"""Every figure by name, in the order of the paper."""
