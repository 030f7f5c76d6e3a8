"""LaTeX: a booktabs table per block, notes and step keys as comments.

It needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from harness.contract.cells import lines, visible
from harness.contract.report import Block, Report
from harness.render.formats import print_raw
from harness.render.loading import Loaded, notes

_LIGATURE = re.compile("([-'?!,])(?=[-'`,])")
_COMMANDS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "$": r"\$", "#": r"\#", "&": r"\&", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "«": r"\guillemotleft{}", "»": r"\guillemotright{}",
    "`": r"\textasciigrave{}",
}  # fmt: skip


def print_header(title: str, console: Console) -> None:
    """Print which run it is, as a comment."""
    print_raw(console, f"% {title}\n")


def print_report(loaded: Loaded, console: Console) -> None:
    """Print tables, and notes as comments."""
    if loaded.rows:
        print_raw(console, as_latex(loaded.report, loaded.rows) + "\n")
    if loaded.footer:
        print_raw(console, f"% {loaded.footer}\n")


def as_latex(report: Report[Any], rows: Sequence[Any]) -> str:
    """A table environment per block, the legend in its caption."""
    tables = [_table(report, block, number) for number, block in enumerate(report.parts(rows))]
    return "\n".join([*tables, *(f"% {note}" for note in notes(report, rows))]) + "\n"


def latex_text(text: str) -> str:
    """Text that LaTeX typesets as it is."""
    return _LIGATURE.sub(r"\1{}", "".join(_COMMANDS.get(char, char) for char in text))


def ampersands(cells: Iterable[str]) -> str:
    """One line of a table; the cells are LaTeX."""
    line = " & ".join(cells) + r" \\"
    # The line above ends in a command that would take a leading [ or * as its argument.
    return "{}" + line if line[0] in "[*" else line


def _table(report: Report[Any], block: Block[Any], number: int) -> str:
    lead = visible(report.lead(block.rows)) if report.lead else ""
    caption = latex_text(" ".join(filter(None, (visible(block.title) + ".", lead, report.legend))))
    label = f"tab:{report.name}" + (f"-{number + 1}" if number else "")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{''.join(c.justify[0] for c in report.columns)}}}",
            r"\toprule",
            " & ".join(latex_text(c.header) for c in report.columns) + r" \\",
            r"\midrule",
            *(ampersands(" ".join(map(latex_text, lines(c.cell(row)))) for c in report.columns) for row in block.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
