"""Sections as JSON, CSV, Markdown and LaTeX. Text from models is data: each format escapes it in its own way."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from harness.render.tables import notes
from harness.reports.cells import lines, visible
from harness.reports.section import Block, Section

_LINE_BREAKING = re.compile("[\x7f-\x9f\u2028\u2029]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_LIGATURE = re.compile("([-'?!,])(?=[-'`,])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "$": r"\$", "#": r"\#", "&": r"\&", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "«": r"\guillemotleft{}", "»": r"\guillemotright{}",
    "`": r"\textasciigrave{}",
}  # fmt: skip


def as_json(rows: Sequence[Any]) -> str:
    """A list of objects, one per line, keys as in the row classes; text is kept exactly, as JSON escapes."""
    objects = ",\n".join("  " + _json(_finite(asdict(row))) for row in rows)
    return f"[\n{objects}\n]\n" if rows else "[]\n"


def as_csv(row_type: type[Any] | None, rows: Sequence[Any]) -> str:
    """One line per row, keys as in the row classes; missing is empty, control characters are made visible."""
    if row_type is None:
        return ""
    names = [f.name for f in fields(row_type)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if (v := getattr(row, name)) is None else _csv_cell(v) for name in names])
    return stream.getvalue()


def as_markdown(section: Section, rows: Sequence[Any]) -> str:
    """A heading and a pipe table per block, then legend and notes."""
    parts = [markdown_text(visible(section.lead(rows)))] if section.lead else []
    for block in section.parts(rows):
        head = "| " + " | ".join(markdown_text(c.header) for c in section.columns) + " |"
        rule = "|" + "|".join("---:" if c.justify == "right" else "---" for c in section.columns) + "|"
        body = [
            "| "
            + " | ".join(" ".join(markdown_text(part) for part in lines(c.cell(row))) for c in section.columns)
            + " |"
            for row in block.rows
        ]
        title = [] if block.title == section.title else [f"### {markdown_text(visible(block.title))}", ""]
        parts.append("\n".join([*title, head, rule, *body]))
    if section.legend:
        parts.append(markdown_text(section.legend))
    found = notes(section, rows)
    if found:
        parts.append("\n".join(f"- {markdown_text(note)}" for note in found))
    return "\n\n".join(parts) + "\n"


def as_latex(section: Section, rows: Sequence[Any]) -> str:
    """A booktabs table per block; notes as comments. Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}."""
    tables = [_latex_table(section, block, number) for number, block in enumerate(section.parts(rows))]
    comments = [f"% {note}" for note in notes(section, rows)]
    return "\n".join([*tables, *comments]) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", escaped)


def latex_text(text: str) -> str:
    """Text that LaTeX typesets as it is."""
    return _LIGATURE.sub(r"\1{}", "".join(_LATEX.get(char, char) for char in text))


def _latex_table(section: Section, block: Block, number: int) -> str:
    right = {"right": "r", "left": "l"}
    escape: Callable[[str], str] = latex_text
    head = " & ".join(escape(c.header) for c in section.columns)
    body = [
        _latex_row([" ".join(escape(part) for part in lines(c.cell(row))) for c in section.columns])
        for row in block.rows
    ]
    lead = visible(section.lead(block.rows)) if section.lead else ""
    caption = escape(" ".join(filter(None, (visible(block.title) + ".", lead, section.legend))))
    label = f"tab:{section.name}" + (f"-{number + 1}" if number else "")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{''.join(right[c.justify] for c in section.columns)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex_row(cells: Sequence[str]) -> str:
    """One row. The row above ends in a command that would take a leading [ or * as its argument."""
    row = " & ".join(cells) + r" \\"
    return "{}" + row if row[0] in "[*" else row


def _json(value: Any) -> str:
    dumped = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _LINE_BREAKING.sub(lambda m: f"\\u{ord(m[0]):04x}", dumped)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _csv_cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return visible(value) if isinstance(value, str) else value
