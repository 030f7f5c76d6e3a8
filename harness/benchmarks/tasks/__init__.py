"""The lm-eval tasks that ship with the harness, one YAML file each.

`!function` names a function by its import path, as in lm-eval, so that these files also work there (`--include_path`).
Two things are filled in here: where this installation keeps a `package://harness/...` data file, and the task's data
where a local file replaces its hub data set.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.errors import DataError, UnknownName
from harness.model.traces import resolve

FOLDER = Path(__file__).resolve().parent
_PACKAGE = "package://"


def task_names() -> list[str]:
    """Every task that ships with the harness, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def task_configs(names: Iterable[str], *, split: str = "test") -> list[dict[str, Any]]:
    """The named tasks as lm-eval configurations, their data files as absolute paths.

    Args:
        names: task names.
        split: of the organism's tasks: `test`, or `dev` to choose difficulty and hyper-parameters.

    Raises:
        UnknownName: a task that does not ship with the harness, or a split that it does not have.
        DataError: the package lacks a data file.
    """
    configs = []
    for name in names:
        config = read_task(name)
        files = (config.get("dataset_kwargs") or {}).get("data_files")
        if files is not None:
            if split not in files:
                raise UnknownName(f"split of {name}", split, files)
            config["dataset_kwargs"]["data_files"] = {key: _located(address) for key, address in files.items()}
            config["test_split"] = split
        configs.append(config)
    return configs


def read_task(name: str, *, resolve_functions: bool = True) -> dict[str, Any]:
    """A task's YAML as it stands; with `resolve_functions` off, a function is its import path.

    Raises:
        UnknownName: a task that does not ship with the harness.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UnknownName("benchmark", name, task_names())
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader(resolve_functions))
    return config


@cache
def _loader(resolve_functions: bool) -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        """YAML of our own package, with `!function`."""

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        module, _, name = str(loader.construct_scalar(node)).rpartition(".")
        return getattr(importlib.import_module(module), name) if resolve_functions else f"{module}.{name}"

    Loader.add_constructor("!function", function)
    return Loader


def _located(address: str) -> str:
    """The absolute path of a data file of the package."""
    path = resolve(address)
    if not path.is_file():
        raise DataError(f"{path} is missing; write it with: python -m harness.organism.build_data")
    return str(path.resolve())
