"""A report as a table in Python: rows, a DataFrame, HTML in a notebook."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.records.flat import flat_values
from harness.render.loading import Loaded, notes

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Table:
    """The rows of a report.

    Attributes:
        name: of the report.
        rows: its dataclasses; a number with an interval is an `Estimate` (value, low, high).
        footer: the keys of the steps behind the rows, or why there are none.
    """

    name: str
    rows: Sequence[Any]
    footer: str
    _loaded: Loaded

    @classmethod
    def of(cls, loaded: Loaded) -> Table:
        """A loaded report."""
        return cls(loaded.report.name, loaded.rows, loaded.footer, loaded)

    @property
    def df(self) -> pandas.DataFrame:
        """All rows and fields; an interval has columns of its own (`score`, `score_ci_low`, `score_ci_high`).

        Raises:
            HarnessError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise HarnessError("a DataFrame needs pandas: pip install pandas (or use .rows)") from error
        return pandas.DataFrame([flat_values(row) for row in self.rows])

    def __len__(self) -> int:
        """How many rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        """The rows."""
        return iter(self.rows)

    def _repr_html_(self) -> str:
        """The columns that people see, with what is said below them."""
        parts = self._loaded.report.parts(self.rows) if self.rows else []
        tables = "".join(self._block(part.title, part.rows) for part in parts)
        said = [*notes(self._loaded.report, self.rows), self.footer]
        return tables + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in said if sentence)

    def _block(self, title: str, rows: Sequence[Any]) -> str:
        columns = self._loaded.report.columns
        head = "".join(f"<th>{html.escape(c.header)}</th>" for c in columns)
        body = "".join("<tr>" + "".join(_cell(c.cell(row), c.justify) for c in columns) + "</tr>" for row in rows)
        return f"<h4>{html.escape(title)}</h4><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __str__(self) -> str:
        """As `harness report` prints it, 120 columns wide."""
        from rich.console import Console

        from harness.render.formats import find_format

        console = Console(file=io.StringIO(), width=120, no_color=True)
        find_format("table").print_report(self._loaded, console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        """Its size; `print(table)` shows it."""
        return f"Table({self.name!r}, {len(self.rows)} rows)"


def _cell(cell: str | tuple[str, ...], justify: str) -> str:
    lines = (cell,) if isinstance(cell, str) else cell
    return f'<td style="text-align: {justify}">{"<br>".join(html.escape(line) for line in lines)}</td>'
