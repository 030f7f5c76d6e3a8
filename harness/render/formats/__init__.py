"""The formats of reports, one module each. Importing this imports none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from harness.errors import UnknownName

if TYPE_CHECKING:
    from rich.console import Console

    from harness.render.loading import Loaded

FORMATS = {"table": "txt", "json": "json", "csv": "csv", "md": "md", "latex": "tex"}
"""Format -> suffix of its files. `table` is for terminals, `md` and `latex` are for papers."""

DATA_FORMATS = ("json", "csv")
"""Formats with every field of every row, and nothing else: no header, no legend, no notes."""


class Format(Protocol):
    """What a module of this folder has."""

    def print_header(self, title: str, console: Console) -> None:
        """Say which run the reports are of; data formats have none."""

    def print_report(self, loaded: Loaded, console: Console) -> None:
        """Print one report."""


def find_format(name: str) -> Format:
    """The module of a format.

    Raises:
        UnknownName: no such format.
    """
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))


def print_raw(console: Console, text: str) -> None:
    """Print text as it is: no markup, no wrapping, no highlighting."""
    console.out(text, highlight=False, end="")
