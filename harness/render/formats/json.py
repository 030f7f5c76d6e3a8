"""JSON: a list of objects, one per line, with every field of every row. Text is kept exactly, as JSON escapes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from harness.records.flat import flat_values
from harness.render.formats import print_raw
from harness.render.loading import Loaded

_LINE_BREAKING = re.compile("[\x7f-\x9f\u2028\u2029]")


def print_report(loaded: Loaded, console: Console) -> None:
    """Print all rows."""
    print_raw(console, as_json(loaded.rows))


def as_json(rows: Sequence[Any]) -> str:
    """Rows as a list; a number that is not finite is null."""
    objects = ",\n".join(f"  {_object(flat_values(row))}" for row in rows)
    return f"[\n{objects}\n]\n" if rows else "[]\n"


def _object(values: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    dumped = json.dumps(finite, ensure_ascii=False, allow_nan=False)
    return _LINE_BREAKING.sub(lambda m: f"\\u{ord(m[0]):04x}", dumped)
