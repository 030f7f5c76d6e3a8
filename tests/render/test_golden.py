"""Every format of one small report, and the tables of all reports, as kept in `golden/`: a change is seen in review.

HARNESS_RENEW_GOLDEN=1 pytest tests/render/test_golden.py rewrites the files, and fails where it changed one: look at
the difference, then commit it.
"""

from __future__ import annotations

import difflib
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from rich.console import Console
from rich.text import Text

from harness.contract.cells import count, inline, percent, text, with_interval
from harness.contract.report import Block, Column, Report
from harness.records.base import Estimate, Flat, StoredAs
from harness.render.formats import DATA_FORMATS, FORMATS, find_format
from harness.render.loading import Loaded
from harness.render.render import render
from harness.reports import report_names

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "[red]a[/red] </script>|\n\x1b[31m & $x_1$ {b}% -- `c` «d»"
LONG_NUMBER = re.compile(r"-?\d+\.\d{9,}(?:e[-+]?\d+)?")
"""The last of many digits are another processor's to choose."""


@dataclass(frozen=True)
class Row:
    """One of each shape of a field."""

    name: str
    group: Annotated[str, StoredAs("block")]
    n: int
    kl_nats: Estimate
    share_of_gap: Annotated[Estimate | None, Flat("share")]
    several: tuple[float, ...]
    reason: str | None = None
    note: str | None = None


ROWS = [
    Row("first", "mlp", 1234, Estimate(0.25, 0.125, 0.5), Estimate(0.5, 0.25, 0.75), (0.5, 1.0)),
    Row(HOSTILE, "mlp", 0, Estimate(0.25, -math.inf, math.inf), None, (), "there is no gap", "of two engines"),
    Row(
        "*third*",
        "attention",
        7,
        Estimate(1e-9, -math.inf, 2.0),
        Estimate(1.5, -0.5, 12.0),
        (1 / 3,),
        "there is no gap",
    ),
]
REPORT = Report[Row](
    "small",
    "A small report",
    lambda connection, run_id: ROWS,
    (
        Column("name", lambda r: r.name, "left", wrap=True, ratio=1),
        Column("block", lambda r: r.group, "left"),
        Column("n", lambda r: count(r.n)),
        Column("KL (nats)", lambda r: with_interval(r.kl_nats)),
        Column("share", lambda r: inline(r.share_of_gap, percent)),
        Column("several", lambda r: tuple(map(text, r.several)) or text(None)),
    ),
    label=lambda r: r.name,
    legend="KL(adapter || ablated) per token; 95 % intervals.",
    blocks=lambda rows: [
        Block(f"block {group}", [r for r in rows if r.group == group]) for group in ("mlp", "attention")
    ],
    lead=lambda rows: "Read this first: 100 % of it.",
    picture=lambda rows: Text("▁▂▃"),
)


def as_kept(name: str, found: str) -> None:
    """Hold a text against the file of that name."""
    path = GOLDEN / name
    kept = path.read_bytes().decode("utf-8") if path.exists() else ""
    if found == kept:
        return
    if os.environ.get("HARNESS_RENEW_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(found.encode("utf-8"))
        pytest.fail(f"{path.name} is written anew: look at the difference before you commit it")
    difference = difflib.unified_diff(kept.splitlines(), found.splitlines(), "kept", "found", lineterm="", n=1)
    pytest.fail("\n".join([f"{path.name} differs; HARNESS_RENEW_GOLDEN=1 rewrites it", *list(difference)[:40]]))


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_in_every_format(form: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, no_color=True)
    if form not in DATA_FORMATS:
        find_format(form).print_header("Run 1: 50 % of it", console)
    find_format(form).print_report(Loaded(REPORT, ROWS, "Step keys: ablate/a_b 0123."), console)
    as_kept(f"small.{FORMATS[form]}", stream.getvalue())


def test_all_tables_on_a_terminal(filled: Path) -> None:
    stream = io.StringIO()
    names = [name for name in report_names() if name not in ("overview", "steps")]  # they have the time of the test
    render(names, db=filled, console=Console(file=stream, width=120, no_color=True))
    as_kept("reports.txt", LONG_NUMBER.sub(lambda number: f"{float(number[0]):.9g}", stream.getvalue()))


def test_no_file_is_kept_for_nothing() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {"reports.txt", *(f"small.{suffix}" for suffix in FORMATS.values())}
