"""No word and no number of a table is broken, whatever its width: there is less to see, or it stands on more lines."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness.contract.cells import lines, visible
from harness.contract.wrapping import width_of, words, wrapped
from harness.render.formats.fit import TextColumn, as_blocks, fit, printed
from harness.render.loading import load_report
from harness.render.render import render
from harness.render.sql import CELL, print_answer
from harness.reports import load_reports, report_names
from harness.reports.common.run import open_results
from harness.store.readonly import ask

WIDTHS = (60, 80, 100, 160)
BETWEEN = re.compile(r"\s|(<\|\w+\|>|\\[nrt])")
"""Where text may be broken: spaces, and beside a context's special tokens and line breaks."""


def pieces(text: str) -> Counter[str]:
    return Counter(piece.rstrip(",") for piece in BETWEEN.split(text) if piece and piece.rstrip(","))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", report_names())
def test_every_report_has_its_words_whole_or_says_what_it_left_out(filled: Path, name: str, width: int) -> None:
    report = load_reports()[name]
    stream = io.StringIO()
    render([name], db=filled, console=Console(file=stream, width=width, no_color=True))
    out = stream.getvalue()
    left_out = " ".join(re.findall(r"No room for: (.*?) \(a wider", out.replace("\n", " ")))
    with open_results(filled) as connection:
        rows = load_report(connection, 1, report, preview=True).rows
    shown = [row for block in report.parts(rows) for row in block.rows]
    for column in report.columns:
        if column.header not in left_out:
            cells = pieces(" ".join(line for row in shown for line in lines(column.cell(row)) if line != "-"))
            assert not cells - pieces(out), f"{column.header} at {width}"
    too_long = [line for line in out.splitlines() if width_of(line) > width]
    assert all(len(line.split()) == 1 for line in too_long), "only a word that is longer than the width"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", ["v_run", "v_step", "v_feature", "v_grade", "study_run", "ablation_score"])
def test_every_answer_in_sql_has_its_words_whole(filled: Path, view: str, width: int) -> None:
    answer = ask(str(filled), f"SELECT * FROM {view} LIMIT 5")
    stream = io.StringIO()
    print_answer(answer, "table", Console(file=stream, width=width, no_color=True))
    out = stream.getvalue()
    short = [visible(v) for row in answer.rows for v in row if isinstance(v, str) and len(visible(v)) <= CELL]
    numbers = [str(v) for row in answer.rows for v in row if isinstance(v, int)]
    assert short
    assert not pieces(" ".join([*short, *numbers])) - pieces(out)
    assert all(len(line.split()) == 1 for line in out.splitlines() if width_of(line) > width)


TEXTS = st.lists(st.text(alphabet="ab1. ·é漢😀-", max_size=12).map(visible), min_size=1, max_size=3).map(tuple)
TABLES = st.integers(1, 4).flatmap(
    lambda n_rows: st.lists(
        st.builds(
            TextColumn,
            header=st.sampled_from(["a", "head of it"]),
            cells=st.lists(TEXTS, min_size=n_rows, max_size=n_rows),
            justify=st.sampled_from(["left", "right"]),
            wrap=st.booleans(),
            ratio=st.integers(1, 3),
            leaves=st.sampled_from([None, 1, 2]),
        ),
        min_size=1,
        max_size=4,
    )
)


@settings(max_examples=200, deadline=None)
@given(TABLES, st.integers(8, 60))
def test_a_table_is_as_wide_as_it_may_be_and_keeps_its_words(columns: list[TextColumn], width: int) -> None:
    fitted = fit(columns, width)
    if fitted.columns:
        head, body = printed(fitted)
        assert all(width_of(line) <= width for line in [*head, *body])
        assert len(fitted.columns) + len(fitted.left_out) == len(columns)
        kept, text = fitted.columns, "\n".join(body)
    else:
        kept, text = (
            tuple(columns),
            "\n".join(line for parts in as_blocks(columns, width, ()) for p in parts for line in p),
        )
    asked = Counter(word for c in kept for cell in c.cells for line in cell for word in words(line))
    found = Counter(words(text.replace("\n", " ")))
    assert not {w for w in asked - found if not w.strip(",")} or fitted.columns == ()
    for word, n in asked.items():
        assert found[word] + found[word + ","] >= n


def column(header: str, cell: str | tuple[str, ...], **more: object) -> TextColumn:
    return TextColumn(header, [cell if isinstance(cell, tuple) else (cell,)], **more)  # type: ignore[arg-type]


def test_intervals_go_below_before_a_column_leaves_and_columns_leave_in_order_before_rows_become_blocks() -> None:
    columns = [
        column("name", "latent12"),
        column("KL", "0.123 [0.100, 0.200]"),
        column("first", "1234567", leaves=1),
        column("second", "7654321", leaves=2),
        column("nothing", "-"),
    ]
    wide, narrow, narrower = fit(columns, 60), fit(columns, 56), fit(columns, 38)
    assert wide.columns == tuple(columns)
    assert narrow.columns[1].cells == [("0.123", "[0.100, 0.200]")]
    assert narrow.left_out == ()
    assert narrower.left_out == ("first", "nothing"), "an empty column leaves first"
    assert fit(columns, 20).columns == ()
    assert list(as_blocks(columns, 20)) == [
        (
            ["latent12"],
            ["  KL       0.123", "           [0.100,", "           0.200]", "  first    1234567", "  second   7654321"],
        )
    ]


def test_a_long_word_has_a_line_of_its_own() -> None:
    assert wrapped("see /a/very/long/path here", 10) == ["see", "/a/very/long/path", "here"]
    assert wrapped("漢字漢字", 4) == ["漢字", "漢字"]
    assert wrapped("of\\n<|im_start|>think", 12) == ["of\\n", "<|im_start|>", "think"]
