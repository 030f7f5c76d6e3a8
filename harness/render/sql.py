"""Print answers of `harness sql` in every format. Values are escaped: none of them can be markup or a command."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from harness.contract.cells import inert, visible
from harness.render.formats.fit import TextColumn, as_blocks, fit
from harness.render.formats.latex import latex_text
from harness.render.formats.md import markdown_text
from harness.render.formats.table import print_blocks, print_columns
from harness.store.readonly import Answer

SHOWN_ROWS = 1_000
"""Rows that a terminal table shows; the other formats have all."""

CELL = 200
"""Characters that a terminal cell shows; the other formats have all."""


def print_answer(answer: Answer, form: str, console: Console) -> None:
    """Print an answer as `table`, `json`, `csv`, `md` or `latex`."""
    if form == "table":
        _print_table(answer, console)
        return
    write = {"json": _json, "csv": _csv, "md": _markdown, "latex": _latex}[form]
    write(answer, console.file)


def _print_table(answer: Answer, console: Console) -> None:
    rows = answer.rows[:SHOWN_ROWS]
    columns = [_column(name, [row[i] for row in rows]) for i, name in enumerate(answer.columns)]
    if fit(columns, console.width).columns:
        print_columns(columns, console)
    else:
        numbered = TextColumn("", [(f"row {number}",) for number in range(1, len(rows) + 1)])
        print_blocks(as_blocks([numbered, *columns], console.width, left_out=()), console)
    n = len(answer.rows)
    more = f"{n:,} rows" + (f", the first {SHOWN_ROWS:,} shown (--format csv has all)" if n > SHOWN_ROWS else "")
    console.print(Text((more if n != 1 else "1 row") + (", cut there" if answer.cut else ""), style="dim"))


def _column(name: str, values: Sequence[Any]) -> TextColumn:
    numbers = any(isinstance(value, int | float) for value in values[:50])
    cells = [(_cell(value),) for value in values]
    return TextColumn(visible(name), cells, "right" if numbers else "left", wrap=not numbers)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _plain(value)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def _plain(value: Any) -> str:
    """A value as one line of text; NULL is empty, bytes are hexadecimal."""
    if value is None:
        return ""
    return value.hex() if isinstance(value, bytes) else visible(str(value))


def _json(answer: Answer, stream: IO[str]) -> None:
    """A list of objects, one per line; a column name that repeats gets a number."""
    names = _unique(answer.columns)
    lines = (json.dumps(dict(zip(names, map(_jsonable, row), strict=True)), ensure_ascii=True) for row in answer.rows)
    stream.write("[" + ",".join(f"\n  {line}" for line in lines) + "\n]\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(columns: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in columns:
        fresh, number = name, 2
        while fresh in names:
            fresh, number = f"{name}_{number}", number + 1
        names.append(fresh)
    return names


def _csv(answer: Answer, stream: IO[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(visible(name) for name in answer.columns)
    writer.writerows([inert(_plain(v)) if isinstance(v, str) else _plain(v) for v in row] for row in answer.rows)


def _markdown(answer: Answer, stream: IO[str]) -> None:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(markdown_text(c) for c in cells) + " |\n"

    stream.write(line(map(visible, answer.columns)) + "|" + "---|" * len(answer.columns) + "\n")
    for row in answer.rows:
        stream.write(line(map(_plain, row)))


def _latex(answer: Answer, stream: IO[str]) -> None:
    def line(cells: Iterable[str]) -> str:
        # The braces keep a leading [ or * from being read as an argument of the line above.
        return "{}" + " & ".join(latex_text(c) for c in cells) + " \\\\\n"

    stream.write(
        f"\\begin{{tabular}}{{{'l' * len(answer.columns)}}}\n\\toprule\n{line(map(visible, answer.columns))}\\midrule\n"
    )
    for row in answer.rows:
        stream.write(line(map(_plain, row)))
    stream.write("\\bottomrule\n\\end{tabular}\n")
