"""Which benchmarks there are, and how a name becomes an lm-eval task.

A name is looked up among the harness's own tasks, then in the user's folders, then among lm-eval's 14,000, whose index
takes seven seconds to build. Every task is loaded in the same way: lm-eval reads its YAML (with `include` and
`!function`), and the harness overrides what the settings change and where local data files are read from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.benchmarks.documents import require_fields
from harness.benchmarks.metrics import choose_metric
from harness.benchmarks.rows import check_documents, placed_rows, splits_of, typed_dataset
from harness.benchmarks.tasks import FOLDER, read_task, task_configs, task_names
from harness.contract.settings import OF_TRACES, EvaluateConfig
from harness.errors import DataError, UnknownName, UsageError
from harness.model.hub import why_not
from harness.model.traces import DataConfig, load_traces, resolve

_MOST_NAMES = 100
"""Tasks of a group that are listed."""


def list_benchmarks(task_paths: Sequence[Path] = ()) -> list[str]:
    """Names of the harness's own tasks and of those in the folders, sorted. lm-eval's own are not listed."""
    return sorted({*task_names(), *OF_TRACES, *(_index_of(task_paths).all_subtasks if task_paths else ())})


def check_benchmarks(names: Sequence[str], task_paths: Sequence[Path] = ()) -> None:
    """Refuse unknown names and groups, before anything runs. lm-eval's index is built only where it is needed.

    Raises:
        UnknownName: no such task.
        UsageError: a group of tasks; it names them.
    """
    for name in names:
        if name not in task_names() and name not in OF_TRACES:
            _find(name, task_paths)


def check_data(settings: EvaluateConfig) -> None:
    """Refuse benchmarks that cannot be run or scored, before the training that precedes them.

    The organism's own benchmarks come with the package and are not looked at.

    Raises:
        UnknownName: no such task.
        UsageError: a group of tasks, a setting that does not reach a task, or a task without a metric to score it by.
        DataError: the data cannot be read, or an item lacks its question or gold answer.
    """
    for name in settings.benchmarks:
        if name in OF_TRACES:
            if name in settings.data:
                load_traces(DataConfig(path=settings.data[name]))
            continue
        packaged = name in task_names() and "data_files" in (read_task(name).get("dataset_kwargs") or {})
        if name in settings.data or not packaged:
            paths = [Path(p) for p in settings.task_paths]
            choose_metric(load_task(name, paths, data=settings.data, repeats=settings.repeats))


def load_task(
    name: str,
    task_paths: Sequence[Path] = (),
    *,
    data: Mapping[str, str] | None = None,
    repeats: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """The lm-eval task of this name, its items checked.

    Args:
        name: of a task.
        task_paths: folders with tasks of the user's.
        data: benchmark -> local file that replaces its data set.
        repeats: answers per item; None leaves it to the task.
        overrides: further fields of the task's configuration.

    Raises:
        UnknownName: no such task.
        UsageError: a group of tasks, a setting that does not reach a task that is a Python class, or a task that
            executes code or shows images or sound.
        DataError: the task's data cannot be read, or an item lacks its question or gold answer.
    """
    from jinja2 import UndefinedError

    local = (data or {}).get(name)
    manager, entry = _find(name, task_paths)
    config = task_configs([name])[0] if name in task_names() else entry.cfg
    if "class" in config and (local or repeats):
        raise UsageError(
            f"evaluate.{'data' if local else 'repeats'} does not reach {name!r}, which is a Python class; write a task "
            "of your own as YAML and name its folder in evaluate.task_paths"
        )
    places: dict[str, list[str]] = {}
    changed = _with_file(config, local, places) if local else _with_local_data(config, entry.yaml_path, places)
    changed |= {**_with_repeats(config, repeats), **(overrides or {})}
    try:
        # A group of one is how lm-eval takes a task by name with overrides.
        (task,) = manager.load([{"group": "harness", "task": [{"task": name, **changed}]}])["tasks"].values()
    except UndefinedError as error:
        raise DataError(f"benchmark {name!r}: its rows lack a field that its templates name: {error}") from error
    except DataError as error:
        raise DataError(f"{local}: {error}" if local and local not in str(error) else str(error)) from error
    except (OSError, ValueError) as error:
        place = config.get("dataset_path") or "its data set"
        cure = f"pass a local copy: --set evaluate.data='{{{name}: FILE.jsonl}}'"
        if "class" in config:
            cure = "download it on a machine with access, and point HF_HOME at that cache"
        raise DataError(f"benchmark {name!r}: {place} cannot be loaded: {why_not(place, error, cure)}") from error
    except (LookupError, ImportError, AttributeError, TypeError) as error:
        raise DataError(f"benchmark {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    _refuse_unsupported(task, name)
    check_documents(task, places)
    return task


def _refuse_unsupported(task: Any, name: str) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UsageError(f"benchmark {name!r} executes code that the model writes, which the harness does not do")
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"benchmark {name!r} shows images or sound, and the harness asks in text only")


def _find(name: str, task_paths: Sequence[Path]) -> tuple[Any, Any]:
    """The lm-eval manager that knows a task, and its entry there (`cfg` with includes, `yaml_path`, `kind`).

    Raises:
        UnknownName: no such task.
        UsageError: it is a group or a tag.
    """
    sources: list[Callable[[], Any]] = [lambda: _index_of([FOLDER]), lambda: _index_of(task_paths), _lm_eval_tasks]
    for manager in (source() for source in sources):
        entry = manager.task_index.get(name)
        if entry is not None and entry.kind.name in ("GROUP", "TAG"):
            raise UsageError(_group_message(name, manager))
        if entry is not None:
            return manager, entry
    names = [*list_benchmarks(task_paths), *_lm_eval_tasks().all_subtasks]
    raise UnknownName("benchmark", name, names, hint=_unread(task_paths))


def _index_of(folders: Sequence[Path]) -> Any:
    """lm-eval's manager of the tasks in these folders.

    Raises:
        UsageError: a folder is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no task folder {folder}")
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)


@functools.cache
def _lm_eval_tasks() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=True)


def _unread(task_paths: Sequence[Path]) -> str:
    """YAML files of the user's folders that lm-eval left out, as a hint for a name that is not found."""
    read = {entry.yaml_path for entry in _index_of(task_paths).task_index.values()}
    files = [file for folder in task_paths for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])]
    unread = [str(file) for file in files if file not in read]
    return f"not read as tasks: {', '.join(unread)}; lm-eval reads valid YAML in files named *.yaml" if unread else ""


def _group_message(name: str, manager: Any) -> str:
    """What a group or tag holds, and the setting that names its tasks singly."""
    members = dict(sorted(_members(name, manager.task_index)))
    single = [task for task, has_file in members.items() if has_file]
    inline = [task for task, has_file in members.items() if not has_file]
    more = f" and {len(single) - _MOST_NAMES} more" if len(single) > _MOST_NAMES else ""
    cure = f": --set 'evaluate.benchmarks=[{','.join(single[:_MOST_NAMES])}]'{more}" if single else ""
    own_file = f"; give {', '.join(inline)} a YAML file of its own each, as only the group defines it" if inline else ""
    return f"{name!r} is a group of {len(members)} tasks; name them singly{cure}{own_file}"


def _members(name: str, index: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The tasks of a group or tag, those of its groups included, and whether each has a YAML file."""
    entry = index.get(name)
    if entry is None or entry.kind.name not in ("GROUP", "TAG"):
        yield name, True  # a name that this index lacks is one of lm-eval's
    elif entry.kind.name == "TAG":
        for tag_member in entry.tags:
            yield from _members(tag_member, index)
    else:
        yield from _listed(entry.cfg.get("task"), index)


def _listed(children: Any, index: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The tasks of a group's list: names, tasks with settings of the group's, and groups within it."""
    for child in [children] if isinstance(children, str) else children or []:
        if isinstance(child, str):
            yield from _members(child, index)
        elif isinstance(child.get("task"), list):
            yield from _listed(child["task"], index)
        else:
            child_name = child.get("task") or child["group"]
            yield from _members(child_name, index) if child_name in index else [(child_name, False)]


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


_NO_HUB = {"dataset_path": None, "dataset_name": None, "dataset_kwargs": None}


def _with_file(config: Mapping[str, Any], file: str, places: dict[str, list[str]]) -> dict[str, Any]:
    """Overrides that replace a task's data set by a local file. `places` is filled when it is read."""
    path = resolve(file)

    def read(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        if path.suffix == ".parquet":
            dataset = Dataset.from_parquet(str(path))
            of_rows = [f"{path}: row {number}" for number in range(1, len(dataset) + 1)]
        else:
            rows = placed_rows(path)
            dataset = typed_dataset(rows, str(path))
            of_rows = [place for place, _ in rows]
        places.update(dict.fromkeys(splits_of(config), of_rows))
        _check_fields(config, dataset.column_names)
        return {split: dataset for split in splits_of(config)}

    return {**_NO_HUB, "custom_dataset": read}


def _with_local_data(config: Mapping[str, Any], file: Path | None, places: dict[str, list[str]]) -> dict[str, Any]:
    """Overrides that find a task's local data files beside its YAML, and read JSON Lines here.

    `datasets` would look in the current folder, and would leave a copy of the data in the user's cache.
    """
    options = config.get("dataset_kwargs") or {}
    files = options.get("data_files")
    by_split = files if isinstance(files, dict) else {"train": files}
    listed = {split: [v] if isinstance(v, str) else list(v or ()) for split, v in by_split.items()}
    names = [str(v) for values in listed.values() for v in values]
    if not names or any("*" in n or ("://" in n and not n.startswith("package://")) for n in names):
        return {}  # addresses and patterns are left to `datasets`
    folders = [] if file is None else [Path(file).parent, *_included_from(Path(file))]
    located = {split: [_locate(str(v), folders) for v in values] for split, values in listed.items()}
    if config.get("dataset_path") != "json" or options.keys() - {"data_files"}:
        return {"dataset_kwargs": {**options, "data_files": {s: [str(p) for p in ps] for s, ps in located.items()}}}

    def read(**_: Any) -> dict[str, Any]:
        split = config.get("test_split") or config.get("validation_split")
        if split not in located:
            raise DataError(f"{file} names no data file for its split {split!r} (it has: {', '.join(located)})")
        datasets = {}
        for split in set(splits_of(config)) & located.keys():
            rows = [row for path in located[split] for row in placed_rows(path)]
            places[split] = [place for place, _ in rows]
            datasets[split] = typed_dataset(rows, ", ".join(map(str, located[split])))
        return datasets

    return {**_NO_HUB, "custom_dataset": read}


def _included_from(file: Path) -> Iterator[Path]:
    """The folders of the YAML files that a task's YAML includes."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads past `!function`."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    includes = (yaml.load(file.read_text(encoding="utf-8"), Loader=Loader) or {}).get("include") or []
    for name in [includes] if isinstance(includes, str) else includes:
        included = file.parent / name
        yield included.parent
        yield from _included_from(included)


def _locate(place: str, folders: Sequence[Path]) -> Path:
    """A data file: beside the task's YAML, beside one that it includes, or from the current folder."""
    path = resolve(place)
    options = [folder / path for folder in folders]
    return next((option for option in [*options, path] if option.is_file()), (options or [path])[0])


def _with_repeats(config: Mapping[str, Any], repeats: int | None) -> dict[str, Any]:
    """Overrides for k answers per item, all of which its filters keep (take_first would drop k - 1 silently)."""
    if repeats is None:
        return {}
    take = {"function": "take_first_k", "k": repeats}
    filters = config.get("filter_list") or [{"name": "all", "filter": [take]}]
    steps = [
        {**f, "filter": [take if step["function"] in ("take_first", "take_first_k") else step for step in f["filter"]]}
        for f in filters
    ]
    return {"repeats": repeats, "filter_list": steps}
