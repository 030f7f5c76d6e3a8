"""Traces from a file or the hub. Each row is checked, and a row that cannot be used is named with a cure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, ValidationError

from harness.config import Config, digest
from harness.errors import DataError, UsageError
from harness.files import printable, reading, reason_of
from harness.model.hub import why_not
from harness.model.layouts import parts_of
from harness.records import Trace
from harness.rows import read_rows, type_name

_PACKAGE = "package://"
_FILE_ENDINGS = {".json", ".jsonl", ".parquet", ".gz"}
_LOCAL_BEGINNINGS = ("package://", "/", ".", "~")


class DataConfig(Config):
    """Where the traces come from. The field names of the data sets that people train on are known."""

    path: str
    """JSON Lines file, JSON array or Parquet file (gzip and UTF-16 are read), `package://PACKAGE/...` of any
    installed package, or a hub data set id."""
    split: str = "train"
    """Split of a hub data set."""
    question: str | None = None
    """Field of the question. None: by the layout of the row, one of s1K-1.1's, s1K's, OpenR1-Math's, OpenThoughts',
    LIMO's and this project's own (question, trace, answer)."""
    trace: str | None = None
    """Field of the reasoning trace. None: likewise."""
    answer: str | None = None
    """Field of the answer attempt. None: likewise."""
    limit: PositiveInt | None = None
    """First n rows; None is all."""
    held_out: float = Field(default=0.1, gt=0, lt=1, exclude_if=lambda share: share == 0.1)
    """Share of the traces that benchmarks on held-out traces read and no trainer does; without such a benchmark all are
    trained on. A hash of the id chooses, as for dictionaries, whose share is always a tenth."""
    cut: Annotated[str, Field(pattern=r"^(none|paragraphs(:[1-9]\d*)?)$")] = "none"
    """`paragraphs`: an example that is longer than the smallest max_length of the study's trainers keeps its question,
    paragraphs of its trace in a row from a drawn place on, and the end of its answer. `paragraphs:N`: than N tokens.
    `none`: trainers leave it out."""

    @property
    def cut_tokens(self) -> int | None:
        """N of `paragraphs:N`."""
        return int(self.cut.partition(":")[2]) if ":" in self.cut else None


def is_local(path: str) -> bool:
    """Whether a path cannot be a hub id, by how it begins."""
    return path.startswith(_LOCAL_BEGINNINGS)


def resolve(path: str) -> Path:
    """A local path; `package://NAME/x` is x inside an installed package, by the name of its module or distribution.

    Raises:
        UsageError: no such package is installed.
    """
    if path.startswith(_PACKAGE):
        name, _, inside = path.removeprefix(_PACKAGE).partition("/")
        places = [folder / inside for folder in _package_folders(name)]
        if not places:
            raise UsageError(f"{path}: no package {name!r} is installed; install it: pip install {name}")
        return next((place for place in places if place.exists()), places[0])
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~NAME, and this machine has no user of that name
        return Path(path)


def _package_folders(name: str) -> list[Path]:
    """Folders of the module of a name, or of the modules of a distribution. Nothing is imported."""
    spec = find_spec(name) if name.isidentifier() else None
    if spec is not None:
        return [Path(folder) for folder in spec.submodule_search_locations or ()]
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):
        return []
    inner = {file.parts[0] for file in found.files or () if len(file.parts) > 1 and file.parts[0] != ".."}
    return [Path(str(found.locate_file(top))) for top in sorted(inner) if not top.endswith(".dist-info")]


def held_out_ids(ids: Iterable[str], share: float = 0.1, seed: int = 0) -> frozenset[str]:
    """The ids that a hash of them holds out: the same ones whatever their order and whatever else there is.

    At least one is held out, and one is left.

    Raises:
        DataError: fewer than two ids.
    """
    draw = {i: int.from_bytes(hashlib.sha256(f"{seed}:{i}".encode()).digest()[:8]) / 2**64 for i in ids}
    if len(draw) < 2:
        raise DataError(f"a held-out split needs two documents or more, not {len(draw)}")
    order = sorted(draw, key=lambda i: (draw[i], i))
    n = sum(value < share for value in draw.values())
    return frozenset(order[: min(max(n, 1), len(order) - 1)])


def fingerprint(config: DataConfig) -> str:
    """What a step's key says of the data: the sha256 of the file, of all files of a folder, or the hub id and split.

    Raises:
        DataError: a file cannot be read.
    """
    path = resolve(config.path)
    if path.is_file():
        return _sha256(path)
    if path.is_dir():
        return digest([[str(p.relative_to(path)), _sha256(p)] for p in sorted(path.rglob("*")) if p.is_file()])
    return f"{config.path}@{config.split}"


def _sha256(path: Path) -> str:
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_traces(config: DataConfig) -> list[Trace]:
    """All traces, in file order.

    An id may be a text or an integer; rows without one (or with null) get their position, counted from 0. An answer may
    be a number.

    Raises:
        DataError: no such file or data set, an empty file, a malformed row, a missing field, null, a value of another
            type, a repeated id.
    """
    traces: list[Trace] = []
    row_of_id: dict[str, int] = {}
    for number, row in _rows(config):
        trace = _trace(row, number, config)
        if trace.id in row_of_id:
            raise DataError(printable(_repeated_id(trace.id, row_of_id[trace.id], row, number, config)))
        row_of_id[trace.id] = number
        traces.append(trace)
        if config.limit is not None and len(traces) >= config.limit:
            break
    if not traces:
        raise DataError(f"{config.path}: holds no rows")
    return traces


def _repeated_id(trace_id: str, first: int, row: Mapping[str, Any], number: int, config: DataConfig) -> str:
    if _number_or_none(row.get("id")) is None:
        return (
            f"{config.path}: row {number} has no id, and its position {trace_id} is the id of row {first}; give every "
            "row an id, or none"
        )
    return f"{config.path}: row {number} repeats the id {trace_id!r} of row {first}; give every row an id of its own"


def _rows(config: DataConfig) -> Iterator[tuple[int, Mapping[str, Any]]]:
    path = resolve(config.path)
    if path.is_file() or path.suffix in _FILE_ENDINGS or (is_local(config.path) and not path.is_dir()):
        yield from read_rows(path)
        return
    from datasets import load_dataset

    cure = "pass a JSON Lines or Parquet file: --set data.path=FILE"
    try:
        dataset = load_dataset(config.path, split=config.split)
    except Exception as error:
        raise DataError(f"cannot load {config.path!r}: {why_not(config.path, error, cure)}") from error
    with reading(config.path, cure):
        yield from enumerate(dataset, start=1)


def _trace(row: Mapping[str, Any], number: int, config: DataConfig) -> Trace:
    named = {"question": config.question, "trace": config.trace, "answer": config.answer}
    parts = parts_of(row, {setting: field for setting, field in named.items() if field is not None})
    if parts is None:
        fields = ", ".join(map(str, row)) or "nothing"
        cure = " ".join(f"--set data.{setting}=FIELD" for setting, field in named.items() if field is None)
        raise DataError(
            printable(
                f"{config.path}: row {number} has the fields of no known data set; it has: {fields}; name them: {cure}"
            )
        )
    values = {"id": _id(row, number, config)} | {
        part: _text(row, number, config, *parts[part], part, numbers=part == "answer") for part in named
    }
    spans = row.get("spans") or {}
    if isinstance(spans, Mapping):
        spans = {part: ranges for part, ranges in spans.items() if ranges is not None}
    try:
        return Trace.model_validate({**values, "spans": spans})
    except ValidationError as error:
        raise DataError(printable(f"{config.path}: row {number}, {reason_of(error)}")) from error


def _id(row: Mapping[str, Any], number: int, config: DataConfig) -> str:
    value = _number_or_none(row.get("id"))
    if value is None:
        return str(number - 1)
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    fault = "empty" if isinstance(value, str) else type_name(value)
    raise DataError(
        f"{config.path}: row {number}, field 'id' is {fault}; write a text or an integer, or leave the field out"
    )


def _text(
    row: Mapping[str, Any], number: int, config: DataConfig, field: str, raw: Any, setting: str, *, numbers: bool
) -> str:
    """The text that was found in a field of the row."""
    value = _number_or_none(raw)
    if numbers and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    if field in row:
        fault = f"field {field!r} is {'empty' if isinstance(value, str) else type_name(value)}, not a text"
    else:
        fault = f"there is no field {field!r}; it has: {', '.join(map(str, row)) or 'nothing'}"
    cure = f"mend the row, leave it out, or name another field: --set data.{setting}=FIELD"
    raise DataError(printable(f"{config.path}: row {number}, {fault}; {cure}"))


def _number_or_none(value: Any) -> Any:
    """7.0 as 7 and NaN as None: tables store a column of integers with gaps as floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if isinstance(value, float) and math.isnan(value) else value
