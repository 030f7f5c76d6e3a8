"""`harness plugins new`: a package for each stage that installs and passes its own test as it was written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import UsageError
from harness.scaffold import STAGES, write_package
from tests.commands import command_environment


def run(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**command_environment(), **env},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for each stage, written by the command, and all of them installed with pip into `site`."""
    folder = tmp_path_factory.mktemp("packages")
    for stage in STAGES:
        out = folder / f"my-{stage}"
        done = CliRunner().invoke(cli, ["plugins", "new", f"my-{stage}", "--stage", stage, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert f"pip install -e {out}" in done.output
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", "site"]
    run("pip", "install", *options, *(f"./my-{stage}" for stage in STAGES), cwd=folder)
    return folder


def test_the_generated_test_of_every_stage_passes(packages: Path) -> None:
    folders = [f"my-{stage}" for stage in STAGES]
    said = run("pytest", "-q", "-p", "no:cacheprovider", *folders, cwd=packages, PYTHONPATH=str(packages / "site"))
    assert "6 passed" in said


def test_the_harness_knows_the_installed_plugins_and_their_settings(packages: Path) -> None:
    listed = run("harness.cli", "plugins", cwd=packages, PYTHONPATH=str(packages / "site"), COLUMNS="200")
    for stage in STAGES:
        (row,) = (line for line in listed.splitlines() if f" my-{stage} " in line)
        assert f"entry point: my-{stage}" in row
    shown = run("harness.cli", "plugins", "show", "my-ablate", cwd=packages, PYTHONPATH=str(packages / "site"))
    assert "n_documents" in shown


def test_the_generated_code_is_clean_and_names_no_placeholder(packages: Path) -> None:
    folders = [f"my-{stage}" for stage in STAGES]
    run("ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,UP,B", *folders, cwd=packages)
    for folder in folders:
        for file in (packages / folder).rglob("*.py"):
            assert not {"my_plugin", "my-plugin", "MyPlugin", "MY_HOOK"} & set(re.findall(r"[\w-]+", file.read_text()))


@pytest.mark.parametrize("name", ["My-Plugin", "my_plugin", "-x", "a--b", "3d", "../x"])
def test_a_name_that_cannot_be_a_plugins_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name of a plugin"):
        write_package(name, "ablate", tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_package("mine", "ablations", tmp_path / "mine")
    with pytest.raises(UsageError, match="not empty; choose another folder"):
        write_package("mine", "ablate", tmp_path / "mine")
