"""CSV is opened by spreadsheets: what they would run as a formula is text with an apostrophe."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.contract.cells import inert
from harness.files import replaced_folder
from harness.render.formats.csv import as_csv


@dataclass(frozen=True)
class Row:
    text: str
    words: tuple[str, ...]
    number: float


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|'!A0", "@SUM(1)", "=HYPERLINK(x)"])
def test_formulas_are_text(text: str) -> None:
    assert inert(text) == "'" + text
    _, row = csv.reader(io.StringIO(as_csv([Row(text, (text,), -1.5)])))
    assert row == ["'" + text, "'" + text, "-1.5"]


@pytest.mark.parametrize("text", ["-3", "+0.5", "-1e-5", "3 - 2", "", "a=b", "−3", "'quoted"])
def test_what_is_no_formula_stays(text: str) -> None:
    assert inert(text) == text


def test_what_a_killed_writer_left_is_swept_and_a_living_ones_work_is_not(tmp_path: Path) -> None:
    dead = tmp_path / ".out-dead"
    (dead / "new").mkdir(parents=True)
    (dead / "lock").touch()
    stranger = tmp_path / ".out-of-mine"
    stranger.mkdir()
    with replaced_folder(tmp_path / "out") as first:
        (first / "a").touch()
        with replaced_folder(tmp_path / "out") as second:
            assert first.is_dir(), "its lock is held"
            (second / "b").touch()
    assert not dead.exists()
    assert stranger.exists(), "without a lock file it is nobody's work folder"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
