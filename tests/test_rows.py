"""Rows of data files: what JSON Lines, arrays and Parquet hold is read, whatever else comes is named with its row."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.errors import DataError, HarnessError
from harness.rows import read_rows

ROWS: list[dict[str, Any]] = [
    {"id": 1, "question": "Où est-ce ? 🧭", "parts": ["a", {"b": None}]},
    {"id": "two", "question": "", "parts": []},
    {"id": None, "question": "x\n\t\r\\ \"y\"", "parts": [1.5, True]},
]  # fmt: skip
SEPARATORS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \t"
"""What str.splitlines cuts at, beside the line feed."""


def lines(rows: list[dict[str, Any]], **dump: Any) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row, **dump) + "\n" for row in rows)


def rows_of(folder: Path, content: bytes, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    """What is read of a file of these bytes."""
    (folder / name).write_bytes(content)
    return [row for _, row in read_rows(folder / name)]


def refusal(folder: Path, content: bytes, name: str = "rows.jsonl") -> str:
    """The sentence about a file of these bytes."""
    with pytest.raises(DataError) as caught:
        rows_of(folder, content, name)
    assert name in str(caught.value)
    str(caught.value).encode()
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("ensure_ascii", [False, True], ids=["characters", "escapes"])
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str, packed: bool, ensure_ascii: bool) -> None:
    content = lines(ROWS, ensure_ascii=ensure_ascii).encode(encoding)
    assert rows_of(tmp_path, gzip.compress(content) if packed else content) == ROWS


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    raw = '{"a": "' + SEPARATORS + '"}\n{"a": "\u2028"}'
    assert rows_of(tmp_path, raw.encode()) == [{"a": SEPARATORS}, {"a": "\u2028"}]
    assert rows_of(tmp_path, raw.encode("utf-16")) == [{"a": SEPARATORS}, {"a": "\u2028"}]


def test_carriage_returns_before_line_feeds_blank_lines_and_a_missing_last_line_feed_are_read(tmp_path: Path) -> None:
    content = lines(ROWS).replace("\n", "\r\n\r\n").encode().rstrip()
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert list(read_rows(tmp_path / "rows.jsonl")) == [(1, ROWS[0]), (3, ROWS[1]), (5, ROWS[2])]


def test_files_with_marks_can_be_joined(tmp_path: Path) -> None:
    content = (codecs.BOM_UTF8 + lines(ROWS).encode()) * 2
    assert rows_of(tmp_path, content) == [*ROWS, *ROWS]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_as_its_rows(tmp_path: Path, indent: int | None) -> None:
    content = "\n " + json.dumps(ROWS, indent=indent)
    assert rows_of(tmp_path, content.encode(), "rows.json") == ROWS
    assert rows_of(tmp_path, content.encode("utf-16"), "rows.json") == ROWS
    assert "row 2 is not a JSON object but a number" in refusal(tmp_path, b'[{"a": 1}, 2]')


def test_parquet_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    table = pa.table({"id": [1, None], "spans": [{"trace": [{"a": 1}]}, None], "text": ["\u2028", "🧭"]})
    pyarrow.parquet.write_table(table, tmp_path / "data.bin")
    assert [row for _, row in read_rows(tmp_path / "data.bin")] == table.to_pylist()


def test_text_in_parquet_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    binary = pa.array([b"fine", b"caf\xe9"], pa.binary())
    pyarrow.parquet.write_table(pa.table({"text": binary.view(pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: row 2: it is not UTF-8 \(byte 0xe9; perhaps Latin-1"):
        list(read_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', "row 2: it is not UTF-8 (byte 0xe9; perhaps Latin-1 or Windows-1252)"),
        ('{"a": "x"}\n{"a": 5}'.encode("utf-16")[:-1], "row 2: it is not UTF-16"),
        ('{"a": "x"}\n\n{"a": 5'.encode("utf-16-be")[:-1], "row 3: it is not UTF-16-BE"),
        (b'{"a": 1}\n\n{"a": ', "row 3: it is not JSON (Expecting value"),
        (b'{"a": 1}\n[1]\n', "row 2 is not a JSON object but a list"),
        (b'"text"\n', "row 1 is not a JSON object but a text"),
        (b"null\n", "row 1 is not a JSON object but null"),
        (b'{"a": 1}\n' + b'{"a":' * 100_000, "row 2: it is nested too deeply"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": ' + b"7" * 5000 + b"}", "row 1: Exceeds the limit (4300 digits)"),
        (b"id,question\n1,x\n", "row 1: it is not JSON"),
        # mtime=0: a name made of the time of collection would differ between xdist's workers
        (gzip.compress(b'{"a": 1}\n' * 50, mtime=0)[:-12], "cut off or damaged"),
        (b"PK\x03\x04 and more", "is a zip archive; unpack it"),
        (bz2.compress(b"x"), "is compressed by bzip2"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "was not downloaded; run git lfs pull"),
        (b"PAR1PAR1", "Parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refusal(tmp_path, content)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl: No such file or directory"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="Is a directory"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("value", ['"cut \\ud83d"', '{"deep": ["\\uDE00"]}', '"\\ud83d\\ud83d\\ude00"'])
def test_half_of_a_surrogate_pair_is_named_by_row_and_field(tmp_path: Path, value: str) -> None:
    content = f'{{"note": "\\ud83d\\ude00"}}\n{{"id": 1, "note": {value}}}\n'
    assert "row 2, field 'note' holds half of a surrogate pair ('\\ud" in refusal(tmp_path, content.encode())
    assert "row 1, field '\\ud83d'" in refusal(tmp_path, b'{"\\ud83d": 1}')
    swapped = '{"a": "x"}'.encode("utf-16-le").replace(b"x\0", b"\x3d\xd8")
    assert "row 1, field 'a' holds half" in refusal(tmp_path, codecs.BOM_UTF16_LE + swapped)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The bytes after one to four random edits: flipped bits, other bytes, cuts, repeats, swapped parts."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:end] = rng.randbytes(end - at)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * rng.choice((1, 3, 200))
        elif kind == 4:
            data[at:at] = rng.choice(
                (b"\n", b"\r", b"\0", b"\xff\xfe", b"[[[[", b'{"a":', b"\\ud800", b'"', b"\xe2\x80\xa8")
            )
        else:
            del data[at:]
    return bytes(data)


def parquet_bytes(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> bytes:
    """The rows as a Parquet file."""
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet", **settings)
    return (folder / "whole.parquet").read_bytes()


@pytest.mark.parametrize("kind", ["jsonl", "utf-16", "array", "gzip", "parquet"])
def test_two_thousand_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    rows = [{"id": i, "question": f"{i} × 2?", "trace": "→ 🧭 \u2028" * i, "answer": str(2 * i)} for i in range(8)]
    text = lines(rows, ensure_ascii=False)
    content = {
        "jsonl": lambda: text.encode(),
        "utf-16": lambda: text.encode("utf-16"),
        "array": lambda: json.dumps(rows, indent=1).encode(),
        "gzip": lambda: gzip.compress(text.encode(), mtime=0),
        "parquet": lambda: parquet_bytes(tmp_path, rows),
    }[kind]()
    n_refused = 0
    for seed in range(2000):
        try:
            rows_of(tmp_path, mutated(content, random.Random(seed)), f"rows.{kind}")
        except HarnessError as error:
            n_refused += 1
            str(error).encode()
    assert 200 < n_refused < 2000, "both outcomes must occur, or the damage is too small or too great to test anything"
