"""Tables in every format, character by character, as kept in `golden/`: a change of a table is seen in review.

HARNESS_RENEW_GOLDEN=1 pytest tests/render/test_golden.py rewrites the files, and fails where it changed one: look at
the difference, then commit it.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.render.export import SUFFIXES
from harness.render.render import FORMATS, render

GOLDEN = Path(__file__).parent / "golden"
SECTIONS = (
    "recovery", "generations", "grader", "groups", "components", "dictionaries", "grades", "features", "categories",
    "paper",
)  # fmt: skip
"""One of each shape: intervals, the paper's column, a picture, several blocks, hostile text, sentences."""

LONG_NUMBER = re.compile(r"-?\d+\.\d{9,}(?:e[-+]?\d+)?")
"""JSON and CSV have all digits; the last of them are another processor's to choose."""


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_table_is_as_it_was(filled: Path, section: str, form: str) -> None:
    stream = io.StringIO()
    render([section], db=filled, form=form, console=Console(file=stream, width=120, no_color=True))
    found = LONG_NUMBER.sub(lambda number: f"{float(number[0]):.9g}", stream.getvalue())
    path = GOLDEN / f"{section}.{SUFFIXES[form]}"
    kept = path.read_bytes().decode("utf-8") if path.exists() else ""
    if found == kept:
        return
    if os.environ.get("HARNESS_RENEW_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(found.encode("utf-8"))
        pytest.fail(f"{path.name} is written anew: look at the difference before you commit it")
    difference = difflib.unified_diff(kept.splitlines(), found.splitlines(), "kept", "found", lineterm="", n=1)
    pytest.fail("\n".join([f"{path.name} differs; HARNESS_RENEW_GOLDEN=1 rewrites it", *list(difference)[:40]]))


def test_no_file_is_kept_for_nothing() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {f"{s}.{SUFFIXES[f]}" for s in SECTIONS for f in FORMATS}
