"""`harness report` is one screen; `--all` has the rest; the dashboard's overview begins with the same."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from rich.console import Console

from harness.cli import cli
from harness.errors import UsageError
from harness.render.dashboard.overview import run_data
from harness.render.render import render, render_summary
from harness.render.summary import _Candidate, summary
from harness.reports.common.run import open_results
from harness.store.writer import Store

COMMAND = [sys.executable, "-c", "from harness.cli import main; main()", "report"]


def screen(db: Path, width: int = 80) -> list[str]:
    stream = io.StringIO()
    render_summary(db=db, console=Console(file=stream, width=width, no_color=True))
    return stream.getvalue().splitlines()


def test_a_run_is_one_screen_that_answers_what_the_adapter_did(filled: Path) -> None:
    lines = screen(filled)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for answer in (
        "Recovery: how much",
        "Where the effect sits",
        "Most: ",
        "Features worth seeing",
        "controls?",
        "Next:",
    ):
        assert answer in text
    assert "The paper" not in text


@pytest.mark.parametrize("width", [60, 120])
def test_the_screen_fits_other_terminals(filled: Path, width: int) -> None:
    assert max(map(len, screen(filled, width))) <= width


def test_a_run_without_results_says_why_in_each_part(store: Store, synthetic: ModuleType, tmp_path: Path) -> None:
    run = store.begin_run(study="[red]s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    store.finish_run(run, status="failed", reason="the disk is full")
    text = " ".join(" ".join(screen(tmp_path / "results.db")).split())
    assert "Run 1: [red]s on" in text
    assert text.count("the disk is full") == 3
    assert "no source of features has a control" in text


def test_features_worth_seeing_are_clear_first_then_of_large_effect() -> None:
    def worth(accuracy: float, purity: float, effect: float | None) -> tuple[bool, bool, float]:
        return _Candidate("a", "b", "c", accuracy, purity, effect).worth

    clear_and_strong, clear, unclear = worth(0.9, 0.8, 0.1), worth(1.0, 1.0, 0.01), worth(0.7, 0.9, 0.9)
    not_measured = worth(1.0, 1.0, None)
    assert clear_and_strong > clear > not_measured > unclear


def test_all_has_every_table_but_the_papers_which_have_to_be_named(filled: Path) -> None:
    everything = CliRunner().invoke(cli, ["report", "--all", "--db", str(filled)], catch_exceptions=False).stdout
    assert "Generations: repeated answers" in everything
    assert "The paper's sentences" not in everything
    named = CliRunner().invoke(cli, ["report", "paper", "--db", str(filled)], catch_exceptions=False).stdout
    assert "The paper's sentences" in named
    with pytest.raises(UsageError, match="leave it out"):
        CliRunner().invoke(cli, ["report", "recovery", "--all", "--db", str(filled)], catch_exceptions=False)


def test_a_reproduction_has_the_papers_tables_unasked(store: Store, synthetic: ModuleType, tmp_path: Path) -> None:
    run = store.begin_run(
        study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE, model="Qwen/Qwen2.5-32B-Instruct"
    )
    store.finish_run(run, status="done")
    stream = io.StringIO()
    render([], db=tmp_path / "results.db", console=Console(file=stream, width=80))
    assert "The paper's sentences" in stream.getvalue()


@pytest.mark.parametrize(("more", "paged"), [({}, True), ({"NO_PAGER": "1"}, False)])
def test_all_goes_through_a_pager_on_a_terminal(filled: Path, more: Mapping[str, str], paged: bool) -> None:
    main, side = pty.openpty()
    environment = {**os.environ, "PAGER": "sed s/^/paged:/", "TERM": "xterm", **more}
    with subprocess.Popen(
        [*COMMAND, "--all", "--db", str(filled)], stdin=side, stdout=side, stderr=side, env=environment
    ) as process:
        os.close(side)
        seen = b""
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            seen += part
        assert process.wait(60) == 0
    os.close(main)
    assert (b"paged:" in seen) is paged
    assert b"Recovery" in seen


def test_the_dashboard_begins_with_the_same(filled: Path) -> None:
    with open_results(filled) as connection:
        data = run_data(connection, 1)["summary"]
        sections = summary(connection, 1)
    assert [part["heading"] for part in data] == [section.heading for section in sections]
    text = " ".join("\n".join(screen(filled)).split())
    for part in data:
        assert all(" ".join(item["head"].split()) in text for item in part["items"])
        assert part["heat"] is None or len(part["heat"]["rows"][0]["cells"]) == len(part["heat"]["layers"])
