"""Lines of text in a width, broken between words only."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.contract.cells import visible

_CJK = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
_SPECIAL = r"<\|\w+\|>|\\[nrt]"
_WORD = re.compile(rf"{_SPECIAL}|[{_CJK}]|(?:(?!{_SPECIAL})[^ {_CJK}])+")
"""A word. Text may be broken between Chinese, Japanese or Korean characters, which stand without spaces, and beside the
special tokens and line breaks of a context."""


def width_of(text: str) -> int:
    """Columns of a terminal that text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def words(text: str) -> list[str]:
    """What is never broken."""
    return _WORD.findall(text)


def wrapped(text: str, width: int, measure: Callable[[str], int] = width_of) -> list[str]:
    """Text on lines of a width; a word that is longer has a line of its own."""
    if measure(text) <= width:
        return [text]
    made: list[str] = []
    line, end = "", 0
    for match in _WORD.finditer(text):
        spaces = " " * (match.start() - end) if line or not made else ""
        if line and measure(line + spaces + match[0]) > width:
            made.append(line)
            line, spaces = "", ""
        line, end = line + spaces + match[0], match.end()
    return [*made, line]


def paragraph(text: str, width: int) -> str:
    """Prose, wrapped."""
    return "\n".join(wrapped(visible(text), width))
