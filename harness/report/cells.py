"""Numbers and text as they stand in a cell: always with their interval, never a bare NaN, hostile text made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

ABSENT = "-"
"""A number that does not exist; the reason is in the notes below the table."""

_KEPT = "\u200c\u200d"  # joiners: words and emoji need them
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

Cell = str | tuple[str, ...]
"""Text of a cell; a tuple is lines on top of each other where there is room for them."""


@dataclass(frozen=True)
class Column:
    """A column of a table for people.

    Attributes:
        header: its head.
        cell: row -> text; data may be passed on as it is, the formats escape it.
        justify: numbers stand right.
        wrap: whether long text may be folded.
        ratio: share of the spare width, for text columns.
    """

    header: str
    cell: Callable[[Any], Cell]
    justify: Literal["left", "right"] = "right"
    wrap: bool = False
    ratio: int | None = None


def lines(cell: Cell) -> tuple[str, ...]:
    """A cell's lines with control characters made visible."""
    return tuple(visible(part) for part in ((cell,) if isinstance(cell, str) else cell))


def visible(text: str) -> str:
    """Text on one line: line breaks, control and direction characters as escapes, so that no terminal obeys them."""
    return "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN and c not in _KEPT else c for c in text)


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def text(value: object) -> str:
    """Any value as text; None is absent."""
    return ABSENT if value is None or value == "" else str(value)


def short(value: str | None, length: int = 90) -> str:
    """Text cut to a length; JSON and CSV have all of it."""
    full = text(value)
    return full if len(full) <= length else full[: length - 1] + "…"


def fixed(value: float | None, digits: int = 3) -> str:
    """With so many decimals."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """With so many significant digits."""
    return ABSENT if value is None else f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """Thousands apart."""
    return ABSENT if value is None else f"{value:,}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return ABSENT if value is None else f"{100 * value:.{digits}f} %"


def p_value(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def with_interval(
    value: float | None,
    low: float | None,
    high: float | None,
    form: Callable[[float | None], str] = fixed,
) -> Cell:
    """A number over its 95 % interval."""
    if value is None:
        return ABSENT
    if low is None and high is None:
        return (form(value), "[unbounded]")
    low_text, high_text = (form(b).removesuffix(" %") for b in (low, high))
    return (form(value), f"[{low_text}, {high_text}]")


def inline(value: float | None, low: float | None, high: float | None, form: Callable[..., str]) -> str:
    """A number and its interval on one line."""
    cell = with_interval(value, low, high, form)
    return cell if isinstance(cell, str) else " ".join(cell)
