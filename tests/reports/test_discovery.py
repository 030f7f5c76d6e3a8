"""A report is one file, or one object of a plugin: it is listed and printed by being there."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from harness import reports
from harness.cli import cli
from harness.errors import UnknownName, UsageError
from harness.render.commands import find_reports
from harness.reports import load_reports, report_names
from harness.store.writer import Store

WORDS = '''
"""The longest words of the explanations."""

from dataclasses import dataclass

from harness import Column, Report
from harness.records.base import Estimate


@dataclass(frozen=True)
class WordRow:
    """A word and how often it stands there."""

    word: str
    share: Estimate


def words(connection, run_id):
    """One row, whatever the run."""
    return [WordRow("interpretability", Estimate(0.5, 0.25, 0.75))]


REPORT = Report[WordRow](
    "longest-words",
    "The longest words",
    words,
    (Column("word", lambda r: r.word, "left"), Column("share", lambda r: f"{r.share.value}")),
    order=135,
)
'''
PLUGIN = f"""
from harness import Config, Registration, hookimpl
{WORDS}

class NothingConfig(Config):
    pass


@hookimpl
def harness_ablations():
    return [Registration(name="nothing", config=NothingConfig, load=lambda: None, summary="measures nothing")]


@hookimpl
def harness_reports():
    return [REPORT]
"""
REGISTRY = """
version: 1
default_study: s
plugins:
  - {name: nothing, stage: ablations, module: %s}
studies:
  s: {summary: s, model: {path: m}, data: {path: d}, adapter: nothing}
"""


@pytest.fixture
def database(store: Store, synthetic: ModuleType) -> Path:
    """A database with one finished run."""
    synthetic.fill(store)
    assert store.engine.url.database is not None
    return Path(store.engine.url.database)


def harness(*arguments: str) -> Result:
    """Call the command line."""
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_a_module_of_the_folder_is_in_report_and_export(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "longest_words.py").write_text(WORDS)
    monkeypatch.setattr(reports, "__path__", [*reports.__path__, str(tmp_path)])
    out = harness("report", "--all", "--db", str(database)).stdout
    assert out.index("Latents switched off") < out.index("The longest words") < out.index("Grades: how"), "by its order"
    row = {"word": "interpretability", "share": 0.5, "share_ci_low": 0.25, "share_ci_high": 0.75}
    assert json.loads(harness("report", "longest-words", "--db", str(database), "--format", "json").stdout) == [row]
    harness("report", "longest-words", "--db", str(database), "--export", str(tmp_path / "out"))
    with (tmp_path / "out" / "tables" / "longest-words.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{name: str(value) for name, value in row.items()}]


def test_a_module_of_the_folder_is_in_help_and_docs(tmp_path: Path) -> None:
    """In a process of its own: the command is made of the names when it is imported."""
    (tmp_path / "longest_words.py").write_text(WORDS)
    generate = Path(__file__).parents[2] / "docs" / "generate.py"
    code = (
        f"import harness.reports; harness.reports.__path__.append({str(tmp_path)!r})\n"
        f"import runpy; print(runpy.run_path({str(generate)!r})['cli']())"
    )
    page = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "longest-words" in "".join(page.split()), "the help is folded at its dash"


def test_hook_harness_reports(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's report is printed by its name, with all reports, and exported."""
    (tmp_path / "words_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY % "words_plugin")

    def call(*arguments: str) -> str:
        return harness("--registry", str(registry), "report", *arguments, "--db", str(database)).stdout

    assert json.loads(call("longest-words", "--format", "json"))[0]["word"] == "interpretability"
    assert "The longest words" in call("--all")
    call("overview", "longest-words", "--export", str(tmp_path / "out"))
    assert "longest-words" in (tmp_path / "out" / "index.md").read_text()
    assert (tmp_path / "out" / "tables" / "longest-words.csv").exists()


def test_a_plugin_that_cannot_be_loaded_does_not_take_the_harnesss_reports(database: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY % "no_such_module")
    done = harness("--registry", str(registry), "report", "--all", "--db", str(database))
    assert "Grades: how monosemantic" in done.stdout
    assert "reports of plugins are left out: 'nothing'" in done.stderr
    assert "no module 'no_such_module'" in done.stderr


def test_what_the_manager_is_offered_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_plugin.py").write_text(PLUGIN.replace("return [REPORT]", "return ['a table']"))
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY % "wrong_plugin")
    monkeypatch.syspath_prepend(tmp_path)
    from harness.study.manager import Manager
    from harness.study.registry import read_registry

    with pytest.raises(UsageError, match="harness_reports returned str, not a Report"):
        Manager(read_registry(registry)).reports()


def test_two_reports_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two reports are called 'grades'"):
        load_reports([load_reports()["grades"]])


def test_every_report_has_the_name_of_its_file_and_a_place_of_its_own() -> None:
    assert sorted(load_reports()) == report_names()
    for report in load_reports().values():
        assert {*report.before, *report.after} <= set(report_names())
        assert report.kinds or report.name in ("overview", "steps")
    assert len({report.order for report in load_reports().values()}) == len(report_names())


def test_an_unknown_report_is_refused_with_the_nearest(tmp_path: Path) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY % "no_such_module")
    with pytest.raises(UnknownName, match="'recovery'"):
        find_reports(["recvery"], str(registry))
