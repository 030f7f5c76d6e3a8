from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import UsageError


def _sql(db: Path, statement: str, *options: str, given: str | None = None) -> str:
    done: Any = CliRunner().invoke(
        cli, ["sql", statement, "--db", str(db), *options], input=given, catch_exceptions=False
    )
    return str(done.stdout)


HOSTILE = "SELECT '[red]x[/red]</script>|' || char(27) || '[31m' || char(10) AS a, NULL AS b, 0.5 AS c, x'00ff' AS d"


def test_a_table_with_its_number_of_rows(filled: Path) -> None:
    out = _sql(filled, "SELECT source, grade, n FROM v_grade ORDER BY 1, 2")
    assert out.splitlines()[0].split() == ["source", "grade", "n"]
    assert out.splitlines()[-1] == f"{len(out.splitlines()) - 3} rows"
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("table", "[red]x[/red]</script>|\\x1b[31m\\n"),
        ("csv", "a,b,c,d\n[red]x[/red]</script>|\\x1b[31m\\n,,0.5,00ff\n"),
        ("md", r"\[red\]x\[/red\]&lt;/script&gt;\|\\x1b\[31m\\n |  | 0.5 | 00ff |"),
        ("latex", r"{}[red]x[/red]\textless{}/script\textgreater{}\textbar{}\textbackslash{}x1b[31m"),
    ],
)
def test_values_are_text_in_every_format(filled: Path, form: str, expected: str) -> None:
    out = _sql(filled, HOSTILE, "--format", form)
    assert expected in out
    assert "\x1b" not in out


def test_json_keeps_values_and_repeated_names(filled: Path) -> None:
    assert json.loads(_sql(filled, HOSTILE, "--format", "json")) == [
        {"a": "[red]x[/red]</script>|\x1b[31m\n", "b": None, "c": 0.5, "d": "00ff"}
    ]
    assert json.loads(_sql(filled, "SELECT 1 AS a, 2 AS a, 9e999 AS b", "--format", "json")) == [
        {"a": 1, "a_2": 2, "b": None}
    ]
    assert json.loads(_sql(filled, "SELECT 1 WHERE 0", "--format", "json")) == []


def test_long_answers_are_cut_on_terminals_only(filled: Path) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) SELECT i FROM n"
    assert "1,500 rows, the first 1,000 shown" in _sql(filled, many)
    assert len(list(csv.reader(io.StringIO(_sql(filled, many, "--format", "csv"))))) == 1501


def test_a_statement_from_standard_input_and_a_refusal(filled: Path) -> None:
    assert "1 row" in _sql(filled, "-", given="SELECT 1")
    with pytest.raises(UsageError, match="only reads"):
        _sql(filled, "DELETE FROM step")


def test_a_row_that_does_not_fit_is_a_block_of_lines(filled: Path) -> None:
    out = _sql(filled, "SELECT * FROM study_run LIMIT 1").splitlines()
    assert out[0] == "row 1"
    assert ["status", "done"] in [line.split() for line in out]
    assert out[-1] == "1 row"
