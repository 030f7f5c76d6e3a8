"""The lm-eval tasks that ship with the harness, one YAML file each.

A data file inside a package has no path that could be written down, so the YAML says ``package://harness/...`` and
:func:`task_configs` fills in where this installation keeps it. Hand the result to lm-eval as it is:
``simple_evaluate(lm, tasks=task_configs(["organism_chain"]), ...)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import DataError, UnknownName
from harness.model.traces import resolve

_HERE = Path(__file__).resolve().parent


def task_names() -> list[str]:
    """Every task that ships with the harness, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def task_configs(names: Iterable[str], *, split: str = "test") -> list[dict[str, Any]]:
    """The named tasks as lm-eval configurations, their data files as absolute paths.

    Args:
        names: task names.
        split: the split to evaluate: ``test``, or ``dev`` to choose difficulty and hyper-parameters.

    Raises:
        UnknownName: a task that does not ship with the harness, or a split that it does not have.
        DataError: the package lacks a data file.
    """
    import yaml

    configs = []
    for name in names:
        path = _HERE / f"{name}.yaml"
        if not path.is_file():
            raise UnknownName("benchmark", name, task_names())
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        files = config["dataset_kwargs"]["data_files"]
        if split not in files:
            raise UnknownName(f"split of {name}", split, files)
        config["dataset_kwargs"]["data_files"] = {key: _located(address) for key, address in files.items()}
        config["test_split"] = split
        configs.append(config)
    return configs


def _located(address: str) -> str:
    """The absolute path of a data file of the package."""
    path = resolve(address)
    if not path.is_file():
        raise DataError(f"{path} is missing; write it with: python -m harness.organism.build_data")
    return str(path.resolve())
