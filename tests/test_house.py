"""The rules that check themselves."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import harness
from harness.contract.stages import PLURALS, STAGES

ROOT = Path(__file__).resolve().parents[1]
CODE = [*sorted((ROOT / "harness").rglob("*.py")), *sorted((ROOT / "plugins").rglob("*.py"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_packaged_registry_is_the_one_at_the_top() -> None:
    assert (ROOT / "harness" / "registry.yaml").resolve() == ROOT / "registry.yaml"


def test_every_plugin_is_one_folder_and_is_in_the_registry() -> None:
    rows = yaml.safe_load((ROOT / "registry.yaml").read_text())["plugins"]
    for row in rows:
        package, stage, plugin = row["module"].split(".")
        assert (package, stage) == ("harness_plugins", PLURALS[row["stage"]])
        assert (ROOT / "plugins" / stage / plugin / "__init__.py").is_file(), row["module"]
    offering = [file for file in (ROOT / "plugins").rglob("*.py") if "@hookimpl" in file.read_text()]
    modules = {"harness_plugins." + ".".join(file.relative_to(ROOT / "plugins").parent.parts) for file in offering}
    assert {file.name for file in offering} == {"__init__.py"}
    assert modules == {row["module"] for row in rows}


def test_what_is_exported_is_sorted_and_complete() -> None:
    assert list(harness.__all__) == sorted(harness.__all__)
    for name in harness.__all__:
        assert getattr(harness, name) is not None
    assert set(harness._MODULE_OF) == set(harness.__all__)


@pytest.mark.parametrize("command", [["--help"], ["plugins"], ["plugins", "show", "rank1-lora"], ["run", "--help"]])
def test_light_commands_import_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom harness.cli import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "names = ('torch', 'transformers', 'openai', 'anthropic', 'lm_eval', 'plugins')\n"
        "heavy = [m for m in names if m in sys.modules]\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_command_line_knows_every_figure() -> None:
    from harness.render.commands import FIGURE_FORMATS, FIGURES
    from harness.render.figures.catalogue import FIGURES as DRAWN
    from harness.render.figures.writer import FORMATS as WRITTEN

    assert FIGURES == tuple(DRAWN)
    assert FIGURE_FORMATS == WRITTEN


def test_figures_stand_in_reports() -> None:
    from harness.render.figures.catalogue import FIGURES
    from harness.reports import report_names

    assert {figure.report for figure in FIGURES.values()} <= set(report_names())


def test_the_command_line_knows_every_stage() -> None:
    from harness.cli import STAGES_HELP

    assert STAGES_HELP.replace(" or ", ", ").split(", ") == list(STAGES)


def test_plugins_is_not_importable_under_a_second_name() -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", "import plugins"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60)
    assert "import `harness_plugins`" in done.stderr


def _functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("file", CODE, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_function_over_80_lines(file: Path) -> None:
    for function in _functions(ast.parse(file.read_text())):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= 80, f"{function.name}: {length} lines"


def test_every_hook_is_documented_with_its_exact_arguments_and_has_a_test() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text()
    tests = "\n".join(f.read_text() for f in (ROOT / "tests").rglob("*.py"))
    for function in _functions(ast.parse((ROOT / "harness" / "contract" / "hooks.py").read_text())):
        arguments = ", ".join(a.arg for a in function.args.args)
        assert f"`{function.name}({arguments})`" in page, function.name
        assert f"def test_hook_{function.name}" in tests, function.name


def test_nothing_names_a_machine_or_a_workplace() -> None:
    words = ["/work/" + "main", "/work/" + "shared", "pypi" + "-more"]
    skip = {
        ".git",
        ".venv",
        ".venv-peers",
        "artifacts",
        "__pycache__",
        ".ruff_cache",
        ".mypy_cache",
        ".pytest_cache",
        ".hypothesis",
    }
    for file in ROOT.rglob("*"):
        if (
            file.is_file()
            and not skip & set(file.parts)
            and file.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".json", ""}
        ):
            text = file.read_text(errors="ignore")
            assert not [w for w in words if w in text], file
