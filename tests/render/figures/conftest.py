from __future__ import annotations

from itertools import combinations
from types import ModuleType

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture(scope="session")
def paper_scale() -> ModuleType:
    """Rows of the paper's size."""
    from tests.render.figures import paper_scale as makers

    return makers


def texts(figure: Figure) -> list[Text]:
    """All text that is visible once the figure is laid out."""
    figure.draw_without_rendering()
    unseen = set()  # tick labels beyond an axis's ends exist, but are not drawn
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True):
                if not low <= place <= high or not axes.axison:
                    unseen |= {tick.label1, tick.label2}
    found = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]
    return [t for t in found if t not in unseen]


def collisions(figure: Figure) -> list[str]:
    """Pairs of texts that touch, texts that leave the figure, and texts too small to read at column width."""
    found = texts(figure)
    boxes = [(t.get_text(), t.get_window_extent()) for t in found]
    width, height = figure.bbox.width, figure.bbox.height
    slack = 1.0  # pixel, at 150 per inch: boxes include the font's side bearings
    bad = [
        f"{a!r} touches {b!r}"
        for (a, p), (b, q) in combinations(boxes, 2)
        if min(p.x1, q.x1) - max(p.x0, q.x0) > slack and min(p.y1, q.y1) - max(p.y0, q.y0) > slack
    ]
    bad += [
        f"{a!r} is cut"
        for a, p in boxes
        if p.x0 < -slack or p.y0 < -slack or p.x1 > width + slack or p.y1 > height + slack
    ]
    return bad + [f"{t.get_text()!r} is {t.get_fontsize()} pt" for t in found if t.get_fontsize() < 5]
