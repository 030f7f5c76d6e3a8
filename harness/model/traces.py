"""Traces from a file or the hub, each row checked; a bad row is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import Config
from harness.errors import DataError
from harness.model.hub import why_not
from harness.records import Trace

_PACKAGE = "package://harness/"


class DataConfig(Config):
    """Where the traces come from. The defaults name the fields of s1K-1.1."""

    path: str
    """JSONL file, Parquet file, `package://harness/...`, or a hub data set id."""
    split: str = "train"
    """Split of a hub data set."""
    question: str = "question"
    """Field of the question."""
    trace: str = "deepseek_thinking_trajectory"
    """Field of the reasoning trace; `trace` is tried where it is absent."""
    answer: str = "deepseek_attempt"
    """Field of the answer attempt; `answer` is tried where it is absent."""
    limit: int | None = None
    """First n rows; None is all."""


def resolve(path: str) -> Path:
    """A local path; `package://harness/x` is x inside the installed package."""
    if path.startswith(_PACKAGE):
        return Path(str(files("harness").joinpath(path.removeprefix(_PACKAGE))))
    return Path(path).expanduser()


def fingerprint(config: DataConfig) -> str:
    """What a step's key says of the data: the file's sha256, or the hub id and split."""
    path = resolve(config.path)
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{config.path}@{config.split}"


def load_traces(config: DataConfig) -> list[Trace]:
    """All traces, in file order.

    Raises:
        DataError: no such file or data set, an empty file, a malformed row, a missing field, a repeated id.
    """
    traces: list[Trace] = []
    seen: dict[str, int] = {}
    for number, row in _rows(config):
        trace = _trace(row, number, config)
        if trace.id in seen:
            raise DataError(f"{config.path}: row {number} repeats the id {trace.id!r} of row {seen[trace.id]}")
        seen[trace.id] = number
        traces.append(trace)
        if config.limit is not None and len(traces) >= config.limit:
            break
    if not traces:
        raise DataError(f"{config.path}: holds no rows")
    return traces


def _rows(config: DataConfig) -> Iterator[tuple[int, Mapping[str, Any]]]:
    path = resolve(config.path)
    if path.suffix in {".jsonl", ".json"} or (path.is_file() and path.suffix != ".parquet"):
        yield from _jsonl(path)
        return
    from datasets import load_dataset

    try:
        if path.suffix == ".parquet":
            dataset = load_dataset("parquet", data_files=str(path), split="train")
        else:
            dataset = load_dataset(config.path, split=config.split)
    except Exception as error:
        cure = "pass a JSONL or Parquet file: --set data.path=FILE"
        raise DataError(f"cannot load {config.path!r}: {why_not(config.path, error, cure)}") from error
    yield from enumerate(dataset, start=1)


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        stream = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: row {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}: row {number} is not a JSON object")
            yield number, row


def _trace(row: Mapping[str, Any], number: int, config: DataConfig) -> Trace:
    values = {
        "question": _field(row, number, config, config.question, "question"),
        "trace": _field(row, number, config, config.trace, "trace"),
        "answer": _field(row, number, config, config.answer, "answer"),
    }
    try:
        return Trace.model_validate({"id": str(row.get("id", number - 1)), "spans": row.get("spans") or {}, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{config.path}: row {number}, field {first['loc'][0]}: {first['msg']}") from error


def _field(row: Mapping[str, Any], number: int, config: DataConfig, *names: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    there = ", ".join(map(str, row)) or "nothing"
    raise DataError(
        f"{config.path}: row {number} has no text in field {names[0]!r} (it has: {there}); "
        f"name the field with --set data.{names[-1]}=FIELD"
    )
