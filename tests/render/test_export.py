from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import harness.render.export as export_module
from harness.cli import cli
from harness.errors import StorageError, UnknownName, UsageError
from harness.render.export import export_run
from harness.render.formats import FORMATS
from harness.reports import report_names


@pytest.fixture(scope="module")
def exported(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    export_run(folder, db=filled)
    return folder


def test_every_section_in_every_format(exported: Path) -> None:
    assert {p.name for p in (exported / "tables").iterdir()} == {
        f"{name}.{suffix}" for name in report_names() for suffix in FORMATS.values()
    }
    assert len(json.loads((exported / "tables" / "features.json").read_text())) == 96
    with (exported / "tables" / "features.csv").open(newline="") as stream:
        assert len(list(csv.reader(stream))) == 97
    for suffix in ("txt", "md", "tex"):
        assert "seed 0" in (exported / "tables" / f"recovery.{suffix}").read_text().splitlines()[0]
    assert "\x1b" not in "".join(p.read_text() for p in (exported / "tables").iterdir())


def test_the_manifest_and_the_index_name_every_file(exported: Path) -> None:
    manifest = json.loads((exported / "index.json").read_text())
    there = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()} - {"index.json", "index.md"}
    listed = {f"tables/{f}" for t in manifest["tables"] for f in t["files"]}
    listed |= {f"figures/{f}" for t in manifest["figures"] for f in t["files"]}
    assert listed == there
    assert manifest["run"]["git_sha"] == "0123456789abcdef"
    assert manifest["run"]["seed"] == 0
    assert all(len(step["key"]) == 64 for step in manifest["steps"])
    links = set(re.findall(r"\]\(((?:tables|figures)/[^)]*)\)", (exported / "index.md").read_text()))
    assert links == there


def test_every_figure_in_both_themes_with_a_caption(exported: Path) -> None:
    figures = json.loads((exported / "index.json").read_text())["figures"]
    stems = {f.rsplit("-", 1)[0] for figure in figures for f in figure["files"]}
    for stem in stems:
        for theme in ("light", "dark"):
            for form in ("svg", "pdf", "png"):
                assert (exported / "figures" / f"{stem}-{theme}.{form}").stat().st_size > 1000
    assert {f["name"] for f in figures} >= {"recovery", "figure1", "figure2", "figure3", "frontier", "training"}
    assert all(f["caption"] for f in figures)


def test_a_second_export_replaces_the_first_and_gives_the_same_bytes(
    filled: Path, exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    export_run(folder, db=filled, names=["recovery"])
    export_run(folder, db=filled, names=["components"])
    tables, figures = (sorted(p for p in (folder / d).iterdir()) for d in ("tables", "figures"))
    assert {p.stem for p in tables} == {"components"}
    assert {p.stem for p in figures} == {"figure3-zero-light", "figure3-zero-dark"}
    for path in (*tables, *figures):
        assert path.read_bytes() == (exported / path.relative_to(folder)).read_bytes(), path
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_somebody_elses_is_left_alone(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.json").write_text("{}")
    with pytest.raises(StorageError, match="holds files that no export made"):
        export_run(tmp_path / "thesis", db=filled)
    assert (tmp_path / "thesis" / "index.json").read_text() == "{}"
    with pytest.raises(StorageError, match="is a file"):
        export_run(tmp_path / "thesis" / "index.json", db=filled)


def test_an_export_that_fails_leaves_nothing_and_keeps_the_old_one(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    export_run(folder, db=filled, names=["overview"])
    before = (folder / "index.json").read_bytes()

    def disk_full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "_index", disk_full)
    with pytest.raises(OSError, match="No space"):
        export_run(folder, db=filled, names=["overview"])
    assert (folder / "index.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


def test_the_commands(filled: Path, tmp_path: Path) -> None:
    def call(*args: str) -> Any:
        return CliRunner().invoke(cli, [*args, "--db", str(filled)], catch_exceptions=False)

    done = call("report", "recovery", "--export", str(tmp_path / "out"))
    assert (tmp_path / "out" / "tables" / "recovery.tex").exists()
    assert "start at index.md" in done.stderr.replace("\n", " ")
    done = call("figures", "figure3", "recovery", "--format", "svg", "--theme", "dark", "--out", str(tmp_path / "f"))
    written = sorted(p.name for p in (tmp_path / "f").iterdir())
    assert written == ["figure3-zero-dark.svg", "recovery-dark.svg"]
    assert [Path(line).name for line in done.stdout.splitlines()] == ["recovery-dark.svg", "figure3-zero-dark.svg"][
        ::-1
    ]
    call(
        "figures", "figure3", "--segment", "prompt", "--format", "svg", "--theme", "dark", "--out", str(tmp_path / "p")
    )
    figures = [(tmp_path / folder / "figure3-zero-dark.svg").read_bytes() for folder in ("f", "p")]
    assert figures[0] != figures[1]
    keys = {"segment": "all", "n_tokens": 24576}
    found = json.loads(call("report", "components", "--segment", "all", "--format", "json").stdout)
    assert all({k: row[k] for k in keys} == keys and row["kl_nats"] == row["kl_nats_all"] for row in found)
    with pytest.raises(UsageError, match=r"recovery has no KL by segment; these reports have: .*components.*totals"):
        call("report", "recovery", "--segment", "all")
    with pytest.raises(UnknownName, match="'figure3'"):
        call("figures", "figure33")
    with pytest.raises(UnknownName, match="'svg'"):
        call("figures", "--format", "svgz")
