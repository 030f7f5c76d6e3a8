"""Print answers of `harness sql` in every format. Values are escaped: none of them can be markup or a command."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.contract.cells import inert, visible
from harness.render.formats.latex import latex_text
from harness.render.formats.md import markdown_text
from harness.store.readonly import Answer

SHOWN_ROWS = 1_000
"""Rows that a terminal table shows; the other formats have all."""

_READABLE = 16
"""Characters of a cell that a line of a table must have room for; else each row is a block of lines."""

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
    longest = [max(len(name), *(len(_cell(row[i])) for row in rows), 0) for i, name in enumerate(answer.columns)]
    if sum(min(n, _READABLE) + 1 for n in longest) > console.width:
        _print_records(answer, rows, console)
    else:
        _print_rows(answer, rows, console)
    n = len(answer.rows)
    more = f"{n:,} rows" + (f", the first {SHOWN_ROWS:,} shown (--format csv has all)" if n > SHOWN_ROWS else "")
    console.print(Text((more if n != 1 else "1 row") + (", cut there" if answer.cut else ""), style="dim"))


def _print_records(answer: Answer, rows: Sequence[Sequence[Any]], console: Console) -> None:
    """A block of lines per row, where the columns of a table would be too narrow to read."""
    for number, row in enumerate(rows, 1):
        console.print(Text(f"row {number}", style="bold"))
        block = Table.grid(padding=(0, 2))
        block.add_column(style="dim", no_wrap=True)
        block.add_column(overflow="fold")
        for name, value in zip(answer.columns, row, strict=True):
            block.add_row(Text(visible(name)), Text(_cell(value)))
        console.print(block)


def _print_rows(answer: Answer, rows: Sequence[Sequence[Any]], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i, name in enumerate(answer.columns):
        numbers = any(isinstance(row[i], int | float) for row in rows[:50])
        table.add_column(Text(visible(name)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)


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
