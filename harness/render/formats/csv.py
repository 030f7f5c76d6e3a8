"""CSV: one line per row, with every field. Missing values are empty, control characters are made visible.

Text that a spreadsheet would run as a formula begins with an apostrophe; JSON has it as it is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from harness.contract.cells import inert
from harness.records.flat import flat_keys, flat_values
from harness.render.formats import print_raw
from harness.render.loading import Loaded


def print_report(loaded: Loaded, console: Console) -> None:
    """Print all rows."""
    print_raw(console, as_csv(loaded.rows))


def as_csv(rows: Sequence[Any]) -> str:
    """Rows below their keys; nothing where there is no row."""
    if not rows:
        return ""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(flat_keys(type(rows[0])))
    writer.writerows([_cell(value) for value in flat_values(row).values()] for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return inert(" ".join(map(str, value)))
    return inert(value) if isinstance(value, str) else value
