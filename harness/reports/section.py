"""What a report is: a query, and which columns people see of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from sqlalchemy import Connection

from harness.reports.cells import Column


@dataclass(frozen=True)
class Block:
    """Rows under one title."""

    title: str
    rows: Sequence[Any]


@dataclass(frozen=True)
class Section:
    """One report.

    Attributes:
        name: what users type.
        title: above the table.
        query: connection and run id -> rows.
        preview: connection and run id -> the rows that people see, where that is quicker than all of them.
        columns: what people see of a row.
        stages: kinds of step that make such rows, for saying why there are none.
        what: the rows' name, plural.
        label: row -> what its notes are filed under; None: its rows have no notes.
        legend: what to know to read the table.
        blocks: rows -> titled groups of the rows that people see.
        lead: rows -> a sentence above everything, where one must be read first.
        picture: rows -> something above the table, on terminals.
        before: sections shown with it, above it, to people.
        after: sections shown with it, below it, to people.
    """

    name: str
    title: str
    query: Callable[[Connection, int], Sequence[Any]]
    columns: tuple[Column, ...]
    stages: tuple[str, ...] = ()
    what: str = "rows"
    label: Callable[[Any], str] | None = None
    legend: str = ""
    blocks: Callable[[Sequence[Any]], list[Block]] | None = None
    lead: Callable[[Sequence[Any]], str] | None = None
    picture: Callable[[Sequence[Any]], RenderableType | None] | None = None
    preview: Callable[[Connection, int], Sequence[Any]] | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def parts(self, rows: Sequence[Any]) -> list[Block]:
        """The rows that people see, grouped."""
        return self.blocks(rows) if self.blocks else [Block(self.title, rows)]
