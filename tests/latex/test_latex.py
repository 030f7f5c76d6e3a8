"""Every report in LaTeX compiles and stays on its page, in a class of one column and in one of two."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from harness.render.formats.latex import PREAMBLE
from harness.render.render import render
from harness.reports import report_names
from harness.store.writer import Store

pytestmark = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here (make test-latex)")

WRONG = re.compile(r"^!|Overfull|Float too large|multiply defined")


@pytest.fixture(scope="module")
def tables(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every report of a run whose texts are hostile."""
    folder = tmp_path_factory.mktemp("latex")
    with Store.open(folder / "results.db") as store:
        synthetic.fill(store)
    for name in report_names():
        stream = io.StringIO()
        render([name], db=folder / "results.db", form="latex", console=Console(file=stream, width=100))
        (folder / f"{name}.tex").write_text(stream.getvalue(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("document_class", ["article", "proc"])
def test_every_report_compiles_without_an_error_or_an_overfull_box(tables: Path, document_class: str) -> None:
    main = tables / f"{document_class}-main.tex"
    inputs = "\n".join(rf"\typeout{{report {name}}}\input{{{name}}}\clearpage" for name in report_names())
    main.write_text(
        rf"\documentclass{{{document_class}}}{PREAMBLE}\begin{{document}}{inputs}\end{{document}}", encoding="utf-8"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", main.name],
        cwd=tables, capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
    wrong, report = [], ""
    for line in done.stdout.splitlines():
        report = line.removeprefix("report ") if line.startswith("report ") else report
        if WRONG.search(line):
            wrong.append(f"{report}: {line}")
    assert not wrong
    assert done.returncode == 0
    assert main.with_suffix(".pdf").stat().st_size > 50_000


def test_a_wrong_table_is_noticed(tables: Path) -> None:
    (tables / "wrong.tex").write_text(
        rf"\documentclass{{article}}{PREAMBLE}\begin{{document}}\parbox{{2em}}{{{'m' * 40}}}\end{{document}}",
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "wrong.tex"], cwd=tables, capture_output=True, text=True, check=False
    )
    assert any(WRONG.search(line) for line in done.stdout.splitlines())
