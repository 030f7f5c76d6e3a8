"""Which benchmarks there are, and how a name becomes an lm-eval task.

Names are looked for in the harness's own tasks, then in the user's folders, then in lm-eval's 14,000 (whose index takes
seven seconds, so it is built last). Local JSON Lines files are read here: `datasets` would ask the network for its own
`json` loader, and would leave a copy in the user's cache.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.benchmarks.documents import require_fields
from harness.benchmarks.tasks import read_task, task_configs, task_names
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError, UnknownName, UsageError
from harness.model.hub import why_not
from harness.model.traces import resolve


def list_benchmarks(task_paths: Sequence[Path] = ()) -> list[str]:
    """Names of the harness's own tasks and of those in the folders, sorted. lm-eval's own are not listed."""
    return sorted({*task_names(), *_user_tasks(task_paths)})


def check_benchmarks(names: Sequence[str], task_paths: Sequence[Path] = ()) -> None:
    """Refuse names that nobody knows, before anything runs. lm-eval's index is built only where it is needed.

    Raises:
        UnknownName: no such task.
    """
    own = list_benchmarks(task_paths)
    for name in names:
        if name not in own and name not in _lm_eval_tasks().all_tasks:
            raise UnknownName("benchmark", name, [*own, *_lm_eval_tasks().all_subtasks])


def check_data(settings: EvaluateConfig) -> None:
    """Refuse benchmarks whose data are out of reach or lack a field, before the training that precedes them.

    The organism's own benchmarks come with the package and are not looked at.

    Raises:
        UnknownName: no such task.
        UsageError: a group of tasks, or a setting that does not reach a task.
        DataError: the data cannot be read.
    """
    for name in settings.benchmarks:
        packaged = name in task_names() and "data_files" in (read_task(name).get("dataset_kwargs") or {})
        if name in settings.data or not packaged:
            paths = [Path(p) for p in settings.task_paths]
            load_task(name, paths, data=settings.data, repeats=settings.repeats)


def load_task(
    name: str,
    task_paths: Sequence[Path] = (),
    *,
    data: Mapping[str, str] | None = None,
    repeats: int | None = None,
) -> Any:
    """The lm-eval task of this name.

    Args:
        name: of a task.
        task_paths: folders with tasks of the user's.
        data: benchmark -> local file that takes the place of its data set.
        repeats: answers per item; None leaves it to the task.

    Raises:
        UnknownName: no such task.
        UsageError: the name stands for a group of tasks, or a setting does not reach a task of lm-eval's own.
        DataError: the task's data cannot be read.
    """
    from jinja2 import UndefinedError
    from lm_eval.tasks import TaskManager

    local = (data or {}).get(name)
    own = _user_tasks(task_paths)
    config: dict[str, Any] | None = None
    if name in task_names():
        config = _localised(task_configs([name])[0], Path.cwd())
        manager = TaskManager(include_defaults=False)
    elif name in own:
        file, config = own[name]
        config = None if config is None else _localised(config, file.parent)
        manager = TaskManager(include_path=[str(p) for p in task_paths], include_defaults=False)
    else:
        manager = _lm_eval_tasks()
        if name not in manager.all_tasks:
            raise UnknownName("benchmark", name, [*list_benchmarks(task_paths), *manager.all_subtasks])
    if config is None and (local or repeats):
        raise UsageError(
            f"evaluate.{'data' if local else 'repeats'} does not reach {name!r}, which only lm-eval can read; "
            "copy its YAML into a folder of yours and name that in evaluate.task_paths"
        )
    if config is not None:
        config = _with_repeats(_with_data(config, local), repeats)
    try:
        tasks = manager.load([name if config is None else config])["tasks"]
    except UndefinedError as error:
        raise DataError(f"benchmark {name!r}: its rows lack a field that its templates name: {error}") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(_why_not(name, config, error)) from error
    if len(tasks) != 1:
        raise UsageError(f"{name!r} is a group of {len(tasks)} tasks; name them singly: {', '.join(sorted(tasks)[:8])}")
    return next(iter(tasks.values()))


def _why_not(name: str, config: Mapping[str, Any] | None, error: Exception) -> str:
    """A sentence that names the data set, the reason and the cure."""
    place = (config or {}).get("dataset_path", "its data set")
    cure = f"pass a local copy: --set evaluate.data='{{{name}: FILE.jsonl}}'"
    return f"benchmark {name!r}: {place} cannot be loaded: {why_not(place, error, cure)}"


def _check_fields(config: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Refuse data without the fields that a task's templates name. What `process_docs` reads it checks itself.

    Raises:
        DataError: a field is missing; it names those that are there.
    """
    from jinja2 import meta
    from lm_eval.utils import env

    if config.get("process_docs") is None:
        templates = [t for t in (config.get("doc_to_text"), config.get("doc_to_target")) if isinstance(t, str)]
        wanted = {t for t in templates if t.isidentifier()}  # a bare name is that field
        wanted |= {field for t in templates for field in meta.find_undeclared_variables(env.parse(t))}
        require_fields(columns, wanted - env.globals.keys(), f"benchmark {config['task']!r}")


def _with_data(config: dict[str, Any], place: str | None) -> dict[str, Any]:
    """The config with a local file in the place of its data set."""
    if place is None:
        return config
    path = resolve(place)

    def rows(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        found = Dataset.from_parquet(str(path)) if path.suffix == ".parquet" else Dataset.from_list(_read(path))
        _check_fields(config, found.column_names)
        splits = {config.get(f"{s}_split") for s in ("training", "validation", "test", "fewshot")}
        return {split: found for split in splits if split}

    gone = {"dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset"}
    return {**{k: v for k, v in config.items() if k not in gone}, "custom_dataset": rows}


def _with_repeats(config: dict[str, Any], repeats: int | None) -> dict[str, Any]:
    """The config with k answers per item, all of which its filters keep (take_first would drop k - 1 silently)."""
    if repeats is None:
        return config
    keep = {"function": "take_first_k", "k": repeats}
    filters = config.get("filter_list") or [{"name": "all", "filter": [keep]}]
    kept = [
        {**f, "filter": [keep if step["function"] in ("take_first", "take_first_k") else step for step in f["filter"]]}
        for f in filters
    ]
    return {**config, "repeats": repeats, "filter_list": kept}


@functools.cache
def _lm_eval_tasks() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=True)


def _user_tasks(task_paths: Sequence[Path]) -> dict[str, tuple[Path, dict[str, Any] | None]]:
    """Task name -> (file, its config; None where it needs lm-eval's own YAML reader)."""
    import yaml

    found: dict[str, tuple[Path, dict[str, Any] | None]] = {}
    for folder in task_paths:
        if not folder.is_dir():
            raise UsageError(f"no task folder {folder}")
        for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
            try:
                config = yaml.safe_load(file.read_text(encoding="utf-8"))
            except yaml.YAMLError:  # `!function` tags
                config = None
            if isinstance(config, dict) and isinstance(config.get("task"), str):
                found[config["task"]] = (file, None if "include" in config else config)
            elif config is None and (name := _task_line(file)):
                found[name] = (file, None)
    return found


def _task_line(file: Path) -> str | None:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("task:"):
            return line.removeprefix("task:").strip().strip("'\"")
    return None


def _localised(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config with local JSON Lines files read here; any other data is left to `datasets`."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") != "json" or not isinstance(files, dict):
        return config
    splits = {config.get(f"{s}_split") for s in ("training", "validation", "test", "fewshot")}
    paths = {split: _path(str(place), folder) for split, place in files.items() if split in splits}

    def rows(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {split: Dataset.from_list(_read(path)) for split, path in paths.items()}

    rest = {k: v for k, v in config.items() if k not in {"dataset_path", "dataset_kwargs"}}
    return {**rest, "custom_dataset": rows}


def _path(place: str, folder: Path) -> Path:
    path = resolve(place)
    return path if path.is_absolute() or path.is_file() else folder / path


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}: row {number} is not JSON: {error}") from error
    return rows
