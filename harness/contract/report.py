"""A report: a query, and which columns people see of its rows. The harness's own and those of plugins are made of it.

JSON and CSV show every field of a row, so a report needs nothing for them. No rich and no SQLAlchemy here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy import Connection

Row = TypeVar("Row")
"""A frozen dataclass: one row of a report. A field may be an `Estimate`; text that explains a missing number is in a
field `reason`, a warning about one in a field `note`."""

Cell = str | tuple[str, ...]
"""Text of a cell; a tuple is lines on top of each other where there is room for them."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table for people.

    Attributes:
        header: its head.
        cell: row -> text; `harness.contract.cells` makes it of numbers. Hostile text may be passed on as it is: every
            format escapes it.
        justify: numbers stand right.
        wrap: whether long text may be wrapped between words. No word is ever broken, and no number.
        ratio: share of the spare width, for text columns.
        leaves: where there is no room, columns with a number leave the table, the smallest first; None: it stays. A
            table that is too wide even then has a block of lines per row.
    """

    header: str
    cell: Callable[[Row], Cell]
    justify: Literal["left", "right"] = "right"
    wrap: bool = False
    ratio: int | None = None
    leaves: int | None = None


@dataclass(frozen=True)
class Block(Generic[Row]):
    """Rows under one title."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Report(Generic[Row]):
    """One report.

    Attributes:
        name: what users type.
        title: above the table.
        query: connection and run id -> all rows.
        columns: what people see of a row.
        kinds: kinds of step that make such rows, for saying why there are none.
        noun: what a row is, plural, e.g. `dictionaries`.
        order: reports are shown by it, smallest first.
        label: row -> what its reason and note are filed under; None: its rows have no notes.
        legend: what to know to read the table.
        blocks: rows -> titled groups of the rows that people see; None: all of them under the title.
        by_segment: whether its query takes `segment`, the tokens that KLs are averaged over (`--segment`).
        lead: rows -> a sentence above everything, where one must be read first.
        picture: rows -> something above the table, on terminals.
        preview: connection and run id -> the rows that people see, where that is much quicker than all of them.
        before: names of reports shown with it, above it, to people.
        after: names of reports shown with it, below it, to people.
        unasked: connection and run id -> whether it is among all reports; None: always. By its name it always is.
    """

    name: str
    title: str
    query: Callable[..., Sequence[Row]]
    columns: tuple[Column[Row], ...]
    kinds: tuple[str, ...] = ()
    noun: str = "rows"
    order: int = 1000
    label: Callable[[Row], str] | None = None
    legend: str = ""
    blocks: Callable[[Sequence[Row]], list[Block[Row]]] | None = None
    by_segment: bool = False
    lead: Callable[[Sequence[Row]], str] | None = None
    picture: Callable[[Sequence[Row]], RenderableType | None] | None = None
    preview: Callable[[Connection, int], Sequence[Row]] | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    unasked: Callable[[Connection, int], bool] | None = None

    def parts(self, rows: Sequence[Row]) -> list[Block[Row]]:
        """The rows that people see, grouped."""
        return self.blocks(rows) if self.blocks else [Block(self.title, rows)]
