"""Figures are compared by structure: what is drawn, where, from which numbers; never by pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from sqlalchemy import delete

from harness.render.figures.agreement import confusion_figure
from harness.render.figures.catalogue import FIGURES, Missing, draw_figures
from harness.render.figures.categories import categories_figure, category_order
from harness.render.figures.components import component_grid, components_figure
from harness.render.figures.donut import Slice, donut_figure, spread
from harness.render.figures.frontier import frontier_figure
from harness.render.figures.recovery import recovery_figure
from harness.render.figures.style import COLUMN_IN, Drawn, Theme, ThemeName, themed
from harness.render.figures.training import training_figure
from harness.render.figures.writer import FORMATS, figure_bytes, file_stem, write_figure
from harness.store.database import open_database
from harness.store.schema import PlantedFeature

from .conftest import collisions, texts

MAKERS: dict[str, Callable[[ModuleType, Theme], Figure | None]] = {
    "figure1": lambda rows, theme: categories_figure(rows.categories(), theme),
    "figure2": lambda rows, theme: donut_figure(rows.slices(), theme, source="batch-topk", n_features=2000),
    "figure2-undivided": lambda rows, theme: donut_figure(
        [Slice(r.category, r.name, r.activation_density) for r in rows.categories(("mlp-neurons",))],
        theme, source="mlp-neurons", n_features=331,
    ),
    "figure3": lambda rows, theme: components_figure(rows.components(), theme, mode="zero"),
    "figure3-small": lambda rows, theme: components_figure(rows.components(n_layers=4), theme, mode="zero"),
    "recovery": lambda rows, theme: recovery_figure(rows.recoveries(), theme),
    "frontier": lambda rows, theme: frontier_figure(rows.dictionaries(), theme),
    "frontier-single": lambda rows, theme: frontier_figure(rows.dictionaries(1), theme),
    "training": lambda rows, theme: training_figure(rows.training(), theme),
    "training-few": lambda rows, theme: training_figure(rows.training(1), theme),
    "confusion": lambda rows, theme: confusion_figure(rows.confusion(), theme),
}  # fmt: skip


def _draw(name: str, rows: ModuleType, theme: ThemeName = "light") -> Figure:
    with themed(theme) as colours:
        figure = MAKERS[name](rows, colours)
    assert figure is not None
    return figure


def _gid(figure: Figure, gid: str) -> list[Any]:
    return figure.findobj(lambda a: re.match(f"{gid}-\\d", a.get_gid() or ""))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", MAKERS)
def test_at_column_width_no_label_touches_another_leaves_the_figure_or_is_too_small(
    paper_scale: ModuleType, name: str, theme: ThemeName
) -> None:
    with themed(theme) as colours:
        figure = MAKERS[name](paper_scale, colours)
        assert figure is not None
        assert figure.get_figwidth() == COLUMN_IN
        assert collisions(figure) == []


def test_figure_1_has_a_bar_per_category_and_source_as_long_as_the_share(paper_scale: ModuleType) -> None:
    rows = paper_scale.categories()
    axes = _draw("figure1", paper_scale).axes[0]
    order = category_order(rows)
    bars = [c for c in axes.containers if isinstance(c, BarContainer)]
    assert len(bars) == 4
    for source, container in zip(paper_scale.SOURCES, bars, strict=True):
        shares = {r.category: r.share.value for r in rows if r.source == source}
        assert [p.get_width() for p in container] == pytest.approx([shares[c] for c in order])
        assert f"n = {sum(r.n_features for r in rows if r.source == source):,}" in str(container.get_label())
    means = [np.mean([r.share.value for r in rows if r.category == c]) for c in order]
    assert means == sorted(means, reverse=True)


def test_a_category_without_features_is_a_zero_with_an_interval(paper_scale: ModuleType) -> None:
    rows = [r for r in paper_scale.categories() if (r.source, r.category) != ("mlp-neurons", "c0")]
    with themed("light") as theme:
        axes = categories_figure(rows, theme).axes[0]
    place = category_order(rows).index("c0")
    assert axes.containers[2][place].get_width() == 0  # bars and their intervals alternate
    ends = axes.containers[3].lines[2][0].get_segments()[place][:, 0]
    n = sum(r.n_features for r in rows if r.source == "mlp-neurons")
    assert ends == pytest.approx([0, 1.96**2 / (n + 1.96**2)], rel=1e-3)  # Wilson's upper end of 0 of n


def test_figure_2_slices_are_proportional_and_nested(paper_scale: ModuleType) -> None:
    figure, slices = _draw("figure2", paper_scale), paper_scale.slices()
    total = sum(s.density for s in slices)
    inner, outer = _gid(figure, "category"), _gid(figure, "subcategory")
    assert len(inner) == 8
    assert len(outer) == len(slices)
    by_category = sorted(
        (sum(s.density for s in slices if s.category == f"c{i}") / total for i in range(8)), reverse=True
    )
    assert [_turn(w) for w in inner] == pytest.approx(by_category)
    assert sorted(map(_turn, outer)) == pytest.approx(sorted(s.density / total for s in slices))
    ends = {round(w.theta1, 3) for w in outer}
    assert {round(w.theta1, 3) for w in inner} <= ends  # a category begins where its first subcategory does
    for wedge in outer:
        assert wedge.r - wedge.width > max(w.r for w in inner)


def _turn(wedge: Wedge) -> float:
    return float(wedge.theta2 - wedge.theta1) / 360


def test_figure_2_is_drawn_whatever_its_shares_add_up_to_in_another_order() -> None:
    densities = [29, 26, 24, 22, 12, 8, 6, 3]
    shares = [d / sum(densities) for d in densities]
    assert sum(shares) <= 1 < np.sum(shares)
    slices = [Slice(f"c{i}", f"C{i}", float(d)) for i, d in enumerate(densities)]
    with themed("light") as theme:
        figure = donut_figure(slices, theme, source="s", n_features=8)
    assert figure is not None
    assert [_turn(w) for w in _gid(figure, "category")] == pytest.approx(shares)


def test_figure_2_of_nothing_active_is_not_drawn() -> None:
    with themed("light") as theme:
        assert donut_figure([Slice("a", "A", 0.0)], theme, source="s", n_features=1) is None


@given(st.lists(st.floats(-1.35, 1.35), max_size=16), st.floats(0.05, 0.3))
def test_labels_keep_their_order_their_distance_and_inside(wanted: list[float], gap: float) -> None:
    wanted = sorted(wanted, reverse=True)
    places = spread(wanted, gap, 1.5)
    fair = min(gap, 3.0 / max(len(wanted) - 1, 1))
    assert all(a - b >= fair - 1e-9 for a, b in pairwise(places))
    assert all(-1.5 - 1e-9 <= p <= 1.5 + 1e-9 for p in places)
    if all(a - b >= gap for a, b in pairwise(wanted)):
        assert places == pytest.approx(wanted)


def test_figure_3_shows_every_cell_and_layer_and_the_cells_have_a_scale_of_their_own(paper_scale: ModuleType) -> None:
    rows = paper_scale.components()
    figure = _draw("figure3", paper_scale)
    mesh = next(m for m in figure.findobj(QuadMesh) if m.get_gid() == "heat-map")
    values = np.asarray(mesh.get_array())
    assert values.shape == (7, 64)
    cells = {(r.projection, r.layer): r.kl_nats.value for r in rows if r.scope == "component"}
    assert values[4, 45] == cells["gate_proj", 45]
    assert values[0, 3] == cells["q_proj", 3]
    bars = [b for b in _gid(figure, "layer-bar") if isinstance(b, Rectangle)]
    layers = [r for r in rows if r.scope == "layer"]
    assert [b.get_height() for b in bars] == [r.kl_nats.value for r in layers]
    assert max(cells.values()) > 30 * min(cells.values()), "they span decades, so that"
    assert isinstance(mesh.norm, LogNorm)
    assert mesh.norm.vmax == max(cells.values()) < max(b.get_height() for b in bars)
    assert mesh.norm.vmin == pytest.approx(max(min(cells.values()), max(cells.values()) / 1e4))
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert labels == ["q", "k", "v", "o", "gate", "up", "down"]


def test_figure_3_leaves_what_was_not_measured_empty(paper_scale: ModuleType) -> None:
    rows = [r for r in paper_scale.components(n_layers=4) if (r.layer, r.projection) != (2, "k_proj")]
    grid = component_grid(rows, "zero")
    assert grid is not None
    assert np.argwhere(np.isnan(grid.cells)).tolist() == [[1, 2]]
    assert component_grid(rows, "mean") is None


def test_figure_3_hatches_what_is_below_the_null_floor(paper_scale: ModuleType) -> None:
    rows = [
        replace(r, below_floor=r.scope == "component" and (r.layer, r.projection) == (2, "k_proj"))
        for r in paper_scale.components(n_layers=4)
    ]
    with themed("light") as theme:
        figure = components_figure(rows, theme, mode="zero")
    assert figure is not None
    (noise,) = [p for p in figure.axes[1].patches if p.get_hatch()]
    assert (noise.get_gid(), noise.get_xy()) == ("below-floor-k_proj-2", (1.5, 0.5))


def test_unbounded_recovery_is_an_arrow_and_no_gap_is_undefined(paper_scale: ModuleType) -> None:
    figure = _draw("recovery", paper_scale)
    assert len(_gid(figure, "recovery-estimate")) == 3  # not of no gap; not of what is far beyond the axis
    assert [a.get_ydata()[0] for a in _gid(figure, "recovery-arrow")] == [0, 2, 2, 4]  # rows; the third on both sides
    assert "undefined" in {t.get_text() for t in texts(figure)}
    assert len(_gid(figure, "paper")) == 5


def test_curves_have_every_logged_point(paper_scale: ModuleType) -> None:
    figure = _draw("training", paper_scale)
    fine_tuning, dictionaries = figure.axes
    assert [str(x.get_label()) for x in fine_tuning.lines] == ["rank1-lora", "full-finetune"]
    assert len(dictionaries.lines) == 12
    assert len(np.asarray(dictionaries.lines[0].get_xdata())) == 50
    assert fine_tuning.get_ylabel() == "loss (nats per token)"


def test_the_frontier_has_a_point_with_an_interval_per_dictionary(paper_scale: ModuleType) -> None:
    rows = paper_scale.dictionaries()
    axes = _draw("frontier", paper_scale).axes[0]
    assert [c.lines[0].get_xdata()[0] for c in axes.containers] == [r.l0.value for r in rows]
    low, high = axes.containers[3].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((rows[3].fvu.low, rows[3].fvu.high))


def test_the_confusion_matrix_counts_failures(paper_scale: ModuleType) -> None:
    figure = _draw("confusion", paper_scale)
    shown = [t.get_text() for t in figure.axes[0].texts]
    assert shown[:4] == ["1,204", "88", "12", "0"]
    assert shown[12:] == ["3", "0", "0", "0"]


@pytest.mark.parametrize("form", FORMATS)
def test_files_are_what_they_say_and_the_same_every_time(paper_scale: ModuleType, form: str) -> None:
    one, two = (Drawn("figure1", "figure1", "t", "c", "dark", _draw("figure1", paper_scale, "dark")) for _ in range(2))
    data = figure_bytes(one, form)
    assert data.startswith({"svg": b"<?xml", "pdf": b"%PDF-", "png": b"\x89PNG"}[form])
    assert data == figure_bytes(two, form)


def test_svg_is_well_formed_and_free_of_markup_from_data(paper_scale: ModuleType) -> None:
    drawn = Drawn("figure1", "figure1", "t", "c", "light", _draw("figure1", paper_scale))
    text = figure_bytes(drawn, "svg", transparent=True).decode("utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "</script>" not in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert not re.search(
        r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)", text.replace("http://www.w3.org", "")
    )


def test_every_figure_of_a_run_is_drawn_or_says_why_not(filled: Path) -> None:
    engine = open_database(filled, create=False)
    with engine.connect() as connection:
        found = list(draw_figures(connection, 1))
        assert {d.name for d in found} == set(FIGURES)
        assert not [d for d in found if isinstance(d, Missing)]
        for drawn in found:
            if isinstance(drawn, Drawn):
                assert re.search(r"\d", drawn.caption), drawn.name
                with themed(drawn.theme):
                    assert collisions(drawn.figure) == []
        only = list(draw_figures(connection, 1, "dark", ["figure3"]))
        assert [(d.name, getattr(d, "theme", None)) for d in only] == [("figure3", "dark")]
        connection.execute(delete(PlantedFeature))
        (missing,) = draw_figures(connection, 1, "light", ["confusion"])
        assert isinstance(missing, Missing)
        assert missing.reason.startswith("confusion: no features with a known grade or two interpreters in run 1")
    engine.dispose()


def test_files_stay_in_their_folder(paper_scale: ModuleType, tmp_path: Path) -> None:
    assert file_stem("figure2", "../../etc/Pass wd\x00", None) == "figure2-etc-pass-wd"
    assert file_stem("…") == "figure"
    drawn = Drawn("f", file_stem("f", "../x"), "t", "c", "light", _draw("confusion", paper_scale))
    assert write_figure(drawn, tmp_path, ["svg"]) == [tmp_path / "f-x-light.svg"]
    assert math.log10(len((tmp_path / "f-x-light.svg").read_bytes())) < 6
