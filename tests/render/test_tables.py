"""Cells of tables look as rich would wrap them, whatever their text and the console's width."""

from __future__ import annotations

import io
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from harness.contract.cells import visible
from harness.render.formats.table import Lines

WORDS = st.text(alphabet="ab1 ·█é漢😀-", max_size=12).map(visible)
CELLS = st.lists(WORDS, min_size=1, max_size=3)
JUSTIFY: list[Literal["left", "right"]] = ["right", "left", "right"]


def printed(rows: list[list[RenderableType]], width: int, *, expand: bool) -> str:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False, expand=expand)
    for i, justify in enumerate(JUSTIFY):
        wraps = justify == "right"
        ratio = 1 if expand and i else None
        table.add_column(Text("ab"), justify=justify, no_wrap=not wraps, overflow="fold", ratio=ratio)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), st.integers(8, 60), st.booleans())
def test_lines_stand_as_text_does(rows: list[tuple[list[str], ...]], width: int, expand: bool) -> None:
    ours = [[Lines(cell) for cell in row] for row in rows]
    richs = [[Text("\n".join(cell)) for cell in row] for row in rows]
    assert printed(ours, width, expand=expand) == printed(richs, width, expand=expand)
