"""Read rows of data files: JSON Lines, a JSON array of objects, or Parquet. A row that cannot be read is named."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.files import half_pair, reading

_CURE = "a data file is JSON Lines (one object a line), a JSON array of objects, or Parquet"
_ROW_CURE = "mend the row or leave it out"
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "compressed by bzip2; unpack it, or use gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or use gzip",
    b"(\xb5/\xfd": "compressed by zstd; unpack it, or use gzip",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"SQLite format 3": "an SQLite database; export the table as JSON Lines or Parquet",
    b"version https://git-lfs": "a pointer to a file that was not downloaded; run git lfs pull",
}
"""First bytes -> what a file of another format is, and the cure."""
_DECODER = json.JSONDecoder(strict=False)  # raw control characters inside a string are data
_TYPE_NAMES = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number",
               str: "a text", bytes: "bytes", type(None): "null"}  # fmt: skip


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""Every row with its number, counted from 1: the line's in JSON Lines, the position in an array or Parquet.

    Lines end at \n alone: U+2028, U+2029, U+0085, \v and \f inside a string are data. Byte order marks, UTF-16, UTF-32
    and gzip are recognised by the file's first bytes.

    Raises:
        DataError: the file cannot be opened, is of another format or encoding, or is damaged; a row is not an object,
            is nested too deeply, or holds half of a surrogate pair.
    """
    with reading(path, _CURE), path.open("rb") as stream:
        head = stream.peek(16)
        for signature, sentence in _OTHER_FORMATS.items():
            if head.startswith(signature):
                raise DataError(f"{path} is {sentence}; {_CURE}")
        if head.startswith(_PARQUET) or path.suffix == ".parquet":
            rows = _parquet_rows(path)
        elif head.startswith(_GZIP):
            rows = _json_rows(path, gzip.GzipFile(fileobj=stream))
        else:
            rows = _json_rows(path, stream)
        for number, row in rows:
            if not isinstance(row, dict):
                raise DataError(f"{path}: row {number} is not a JSON object but {type_name(row)}; {_CURE}")
            with reading(path, _ROW_CURE, row=number):
                _refuse_half_pairs(path, number, row)
            yield number, row


def type_name(value: object) -> str:
    """What a value of a row is, for messages: `a number`, `null`."""
    return _TYPE_NAMES.get(type(value), f"of type {type(value).__name__}")


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet

    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for index in range(batch.num_rows):
                number += 1
                with reading(path, _ROW_CURE, row=number):
                    row = batch.slice(index, 1).to_pylist()[0]
                yield number, row


def _json_rows(path: Path, stream: io.BufferedReader | gzip.GzipFile) -> Iterator[tuple[int, Any]]:
    lines = _lines(path, stream)
    array_allowed = True
    for number, line in lines:
        if not line.strip():
            continue
        if array_allowed and line.lstrip().startswith("["):
            whole = "".join([line, *(rest for _, rest in lines)])
            yield from enumerate(_DECODER.decode(whole), start=1)
            return
        try:
            row = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            if array_allowed and line.lstrip().startswith("{"):
                yield from _rows_of_object(path, line, lines, error)
                return
            with reading(path, _ROW_CURE, row=number):
                raise
        array_allowed = False
        yield number, row


def _rows_of_object(
    path: Path, first: str, rest: Iterator[tuple[int, str]], error: Exception
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a file that is one JSON object over several lines, id -> row."""
    try:
        whole = _DECODER.decode("".join([first, *(line for _, line in rest)]))
    except (ValueError, RecursionError, DataError):
        with reading(path, _ROW_CURE, row=1):
            raise error from None
    if not all(isinstance(value, dict) for value in whole.values()):
        keys = ", ".join([*list(whole)[:3], *(["..."] if len(whole) > 3 else [])])
        raise DataError(f"{path} is one JSON object with the keys {keys}, not rows; {_CURE}")
    yield from enumerate(({"id": key, **row} for key, row in whole.items()), start=1)


def _lines(path: Path, stream: io.BufferedReader | gzip.GzipFile) -> Iterator[tuple[int, str]]:
    """The lines as text, with their numbers; the encoding is seen from the first bytes."""
    encoding = json.detect_encoding(stream.peek(4)[:4])
    if encoding.startswith("utf-8"):
        # Decoded line by line, so that a fault is in a known row. A mark before any line is that of a joined file.
        lines: Iterator[str] = (line.decode("utf-8-sig") for line in stream)
    else:
        lines = _wide_lines(stream.read(), encoding)
    number = 0
    while True:
        number += 1
        with reading(path, _ROW_CURE, row=number):
            line = next(lines, None)
        if line is None:
            return
        yield number, line


def _wide_lines(data: bytes, encoding: str) -> Iterator[str]:
    """The lines of UTF-16 or UTF-32; a fault is raised after the whole lines before it."""
    fault = None
    try:
        text = data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        text, fault = data[: error.start].decode(encoding, "surrogatepass"), error
        text = text[: text.rfind("\n") + 1]
    yield from io.StringIO(text, newline="\n")
    if fault is not None:
        raise fault


def _refuse_half_pairs(path: Path, number: int, row: dict[str, Any]) -> None:
    for field, value in row.items():
        if half := half_pair(json.dumps([field, value], ensure_ascii=False, default=str)):
            raise DataError(
                f"{path}: row {number}, field {field!a} holds half of a surrogate pair ({half}), as of an emoji that "
                "was cut in two; remove that character or cut the text before it"
            )
