"""LaTeX: tables that compile and stay on the page, in one column and, as `table*`, across two.

The columns are those that fit into the text of `article`; the legend and the rows' notes stand below. Rows that do not
fit on a page go on in the next table. It needs the packages of `PREAMBLE`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from harness.contract.cells import ABSENT, visible
from harness.contract.report import Block, Report
from harness.contract.wrapping import words, wrapped
from harness.render.formats import print_raw
from harness.render.formats.fit import Fitted, TextColumn, fit, one_line, text_columns
from harness.render.loading import Loaded, notes

PREAMBLE = r"\usepackage[T1]{fontenc}\usepackage{booktabs,tabularx,threeparttable}"
"""What a document needs to have the tables."""

WIDTH_PT = 345
"""\\textwidth of `article` at 10 pt; classes of two columns have more."""

GAP_PT = 6

PAGE_LINES = 50
"""Lines of a table with its head, caption and notes, in \\footnotesize, that a page has room for."""

MOST_NOTES = 6
"""Notes below a table; the others are comments."""

READABLE_PT = 60

_LONG_WORD = 24
"""Characters of a word from which it may be broken in text that is wrapped: a path, a context without spaces."""

_BARS = re.compile("[▁▂▃▄▅▆▇█]")
_LIGATURE = re.compile("([-'?!,])(?=[-'`,])")
_COMMANDS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "$": r"\$", "#": r"\#", "&": r"\&", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "«": r"\guillemotleft{}", "»": r"\guillemotright{}",
    "`": r"\textasciigrave{}", "·": r"\textperiodcentered{}", "×": r"\texttimes{}", "÷": r"\textdiv{}",
    "±": r"\textpm{}", "→": r"\textrightarrow{}", "←": r"\textleftarrow{}", "‖": r"\textbardbl{}", "…": r"\dots{}",
    "≤": r"\ensuremath{\le}", "≥": r"\ensuremath{\ge}", "−": r"\ensuremath{-}", "∈": r"\ensuremath{\in}",
    "≈": r"\ensuremath{\approx}", "≠": r"\ensuremath{\ne}", "–": r"\textendash{}", "—": r"\textemdash{}",
    "‘": r"\textquoteleft{}", "’": r"\textquoteright{}", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}",
    "°": r"\textdegree{}", "µ": r"\textmu{}", "€": r"\texteuro{}", "\xa0": "~",
}  # fmt: skip


def print_header(title: str, console: Console) -> None:
    """Print which run it is, as a comment, and what the tables need."""
    print_raw(console, f"% {title}\n% {PREAMBLE}\n")


def print_report(loaded: Loaded, console: Console) -> None:
    """Print tables; the keys of steps are a comment."""
    if loaded.rows:
        print_raw(console, as_latex(loaded.report, loaded.rows) + "\n")
    if loaded.footer:
        print_raw(console, f"% {loaded.footer}\n")


def as_latex(report: Report[Any], rows: Sequence[Any]) -> str:
    """Table environments of each block; legend and notes below the last."""
    blocks = report.parts(rows)
    said = notes(report, rows)
    below = [*([report.legend] if report.legend else []), *said[:MOST_NOTES]]
    tables: list[str] = []
    for number, block in enumerate(blocks):
        lead = visible(report.lead(block.rows)) if report.lead else ""
        caption = " ".join(filter(None, (visible(block.title) + ".", lead)))
        label = f"tab:{report.name}" + (f"-{number + 1}" if number else "")
        tables += _tables(report, block, caption, label, below if number == len(blocks) - 1 else [])
    return "\n".join([*tables, *(f"% {note}" for note in said[MOST_NOTES:])]) + "\n"


def latex_text(text: str) -> str:
    """Text that LaTeX typesets as it is; what its fonts lack stands as its code point."""
    return _LIGATURE.sub(r"\1{}", "".join(map(_typeset, text)))


def _typeset(char: str) -> str:
    if char in _COMMANDS:
        return _COMMANDS[char]
    return char if char.isascii() or "À" <= char <= "ÿ" else rf"\texttt{{U+{ord(char):04X}}}"


def ampersands(cells: Iterable[str]) -> str:
    """One line of a table; the cells are LaTeX."""
    line = " & ".join(cells) + r" \\"
    # The line above ends in a command that would take a leading [ or * as its argument.
    return "{}" + line if line[0] in "[*" else line


def points(text: str) -> int:
    """Width in \\footnotesize, 8 pt; Computer Modern's widths, rounded up."""
    return math.ceil(sum(map(_char_points, text)) * 1.03)


def _char_points(char: str) -> float:
    if char in "ijl.,:;'|! ":
        return 2.9
    if char in "mwMW%@×÷→←…—":
        return 7.6
    if char.isascii():
        return 6.2 if char.isupper() else 4.6
    return 6.2 if "À" <= char <= "ÿ" or char in _COMMANDS else 30.0


def _tables(report: Report[Any], block: Block[Any], caption: str, label: str, below: Sequence[str]) -> Iterator[str]:
    """A block as one table, or as many as its rows need pages."""
    columns = [_without_bars(column) for column in text_columns(report, block)]
    fitted = fit(columns, WIDTH_PT, measure=points, gap=GAP_PT, readable=READABLE_PT)
    if fitted.left_out:
        below = [*below, f"Left out here: {', '.join(fitted.left_out)}."]
    rows = list(_rows(fitted) if fitted.columns else _block_rows(columns))
    pages = _pages(rows, *(sum(len(wrapped(x, WIDTH_PT, points)) for x in texts) for texts in ((caption,), below)))
    for number, page in enumerate(pages):
        last = number == len(pages) - 1
        yield _environment(
            caption if not number else f"{block.title} (continued).",
            label if not number else f"{label}-page-{number + 1}",
            [*_opening(fitted), *page, r"\bottomrule", _closing(fitted)],
            below if last else [],
        )


def _pages(rows: Sequence[tuple[str, int]], above: int, below: int) -> list[list[str]]:
    """Rows by page; the last has room for the notes."""
    room = PAGE_LINES - above - 3
    pages: list[list[tuple[str, int]]] = [[]]
    for row in rows:
        if pages[-1] and sum(n for _, n in pages[-1]) + row[1] > room:
            pages.append([])
        pages[-1].append(row)
    last = pages[-1]
    if len(last) > 1 and sum(n for _, n in last) + below > room:
        pages[-1:] = [last[: len(last) // 2], last[len(last) // 2 :]]
    return [[text for text, _ in page] for page in pages]


def _environment(caption: str, label: str, table: Sequence[str], below: Sequence[str]) -> str:
    notes_below = [
        r"\begin{tablenotes}[flushleft]\footnotesize\raggedright",
        *(rf"\item {_safe(visible(text))}" for text in below),
        r"\end{tablenotes}",
    ]
    return "\n".join(
        [
            r"\begin{table*}[tp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            r"\begin{threeparttable}",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\label{{{label}}}",
            *table,
            *(notes_below if below else ()),
            r"\end{threeparttable}",
            r"\end{table*}",
        ]
    )


def _opening(fitted: Fitted) -> list[str]:
    """Begin the table; its columns, and their heads. Text that is wrapped shares the line as it was fitted."""
    if not fitted.columns:
        return [r"\begin{tabularx}{\linewidth}{@{}l>{\raggedright\arraybackslash}X@{}}", r"\toprule"]
    wraps = [w for c, w in zip(fitted.columns, fitted.widths, strict=True) if c.wrap]
    mean = sum(wraps) / len(wraps) if wraps else 1.0
    shapes = [
        rf">{{\hsize={w / mean:.3f}\hsize\raggedright\arraybackslash}}X" if c.wrap else c.justify[0]
        for c, w in zip(fitted.columns, fitted.widths, strict=True)
    ]
    heads = [
        latex_text(c.header) if c.wrap else _stacked(wrapped(c.header, w, points), c.justify[0])
        for c, w in zip(fitted.columns, fitted.widths, strict=True)
    ]
    fill = "" if wraps else r"@{\extracolsep{\fill}}"
    kind = "tabularx" if wraps else "tabular*"
    begin = rf"\begin{{{kind}}}{{\linewidth}}{{@{{}}{fill}{''.join(shapes)}@{{}}}}"
    return [begin, r"\toprule", ampersands(heads), r"\midrule"]


def _closing(fitted: Fitted) -> str:
    return r"\end{tabular*}" if fitted.columns and not any(c.wrap for c in fitted.columns) else r"\end{tabularx}"


def _rows(fitted: Fitted) -> Iterator[tuple[str, int]]:
    """Each row in LaTeX, and the lines that it takes."""
    for i in range(len(fitted.columns[0].cells)):
        cells, n_lines = [], 1
        for column, width in zip(fitted.columns, fitted.widths, strict=True):
            lines = column.cells[i]
            n_lines = max(n_lines, sum(len(wrapped(x, width, points)) for x in lines) if column.wrap else len(lines))
            whole = r"\newline ".join(map(_breakable, lines)) if column.wrap else _stacked(lines, column.justify[0])
            cells.append(whole)
        yield ampersands(cells), n_lines


def _block_rows(columns: Sequence[TextColumn]) -> Iterator[tuple[str, int]]:
    """A line per cell, below the row's first cell, where the columns do not fit beside each other."""
    first, others = columns[0], columns[1:]
    label = max((points(c.header) for c in others), default=0)
    for i, title in enumerate(first.cells):
        head = (
            rf"\multicolumn{{2}}{{@{{}}p{{\linewidth}}@{{}}}}{{\raggedright\textbf{{{_breakable(one_line(title))}}}}}"
        )
        shown = [(c.header, one_line(c.cells[i])) for c in others if one_line(c.cells[i]) not in ("", ABSENT)]
        body = [ampersands([latex_text(header), _breakable(text)]) for header, text in shown]
        n_lines = 1 + sum(len(wrapped(text, WIDTH_PT - label - GAP_PT, points)) for _, text in shown)
        yield "\n".join([head + r" \\", *body]), n_lines


def _stacked(lines: Sequence[str], side: str) -> str:
    """Lines on top of each other in a column that is not wrapped."""
    if len(lines) < 2:
        return latex_text("".join(lines))
    stack = r" \\ ".join(map(_safe, lines))
    return rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{stack}\end{{tabular}}"


def _safe(text: str) -> str:
    """Text after a command: a bracket or a star that it begins with would be read as the command's argument."""
    return "{}" + latex_text(text) if text[:1] in ("[", "*") else latex_text(text)


def _breakable(text: str) -> str:
    """Text that is wrapped: between words, and a long word beside its signs, else it would stand out of the column."""
    return " ".join(r"\allowbreak{}".join(_in_parts(part) for part in words(spaced)) for spaced in text.split(" "))


def _in_parts(word: str) -> str:
    if len(word) <= _LONG_WORD:
        return latex_text(word)
    breaks = (r"\allowbreak{}" if not c.isalnum() or n % _LONG_WORD == 0 else "" for n, c in enumerate(word, 1))
    return "".join(latex_text(c) + after for c, after in zip(word, breaks, strict=True))


def _without_bars(column: TextColumn) -> TextColumn:
    """Without lines of bars, which its fonts lack."""
    return replace(column, cells=[tuple(x for x in cell if not _BARS.search(x)) or ("",) for cell in column.cells])
