"""Reading files: whatever a library raises about a file becomes one sentence that names the file and a cure."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
import yaml

from harness.errors import DataError, ModelError
from harness.files import printable, reading
from harness.records import Trace

WHOLE = io.BytesIO()
np.save(WHOLE, np.arange(100))

COMPLAINTS: dict[str, tuple[Callable[[], object], str]] = {
    "json": (lambda: json.loads('{"a": '), "it is not JSON (Expecting value"),
    "json that is nested": (lambda: json.loads("[" * 100_000), "nested too deeply"),
    "yaml": (lambda: yaml.safe_load("a: [1"), "while parsing a flow sequence"),
    "unicode": (lambda: b"caf\xe9".decode("utf-8"), "not UTF-8 (byte 0xe9; perhaps Latin-1"),
    "half a surrogate pair": (lambda: "\ud83d".encode(), "half a surrogate pair"),
    "gzip": (lambda: gzip.decompress(b"\x1f\x8b\x08\x00"), "cut off or damaged"),
    "not gzip": (lambda: gzip.decompress(b"plain"), "cut off or damaged"),
    "deflate": (lambda: zlib.decompress(b"plain"), "cut off or damaged"),
    "zip": (lambda: zipfile.ZipFile(io.BytesIO(b"plain")), "cut off or damaged"),
    "numpy": (lambda: np.load(io.BytesIO(WHOLE.getvalue()[:-8])), "expected 800 bytes got 792"),
    "safetensors": (lambda: safetensors.numpy.load(b"\xff" * 16), "cut off or damaged"),
    "parquet": (lambda: pyarrow.parquet.ParquetFile(io.BytesIO(b"PAR1PAR1")), "Parquet"),
    "jinja": (lambda: jinja2.Environment().from_string("{% for %}"), "Expected an expression"),
    "pickle": (lambda: pickle.loads(b"\x80\x04N"), "cut off or damaged"),
    "a missing file": (lambda: Path("/nowhere/x.json").read_text(), "No such file"),
    "a missing key": (lambda: {}["d_in"], "it has no 'd_in'"),
    "pydantic": (lambda: Trace.model_validate({"id": "1", "question": 5}), "field question: Input should be"),
    "an exception without words": (lambda: next(iter(())), "StopIteration"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLAINTS)
def test_what_a_library_raises_becomes_a_sentence_with_the_file_and_a_cure(name: str) -> None:
    complain, said = COMPLAINTS[name]
    with pytest.raises(DataError) as caught, reading("data.bin", "fetch it again"):
        complain()
    assert str(caught.value).startswith("cannot read data.bin: ")
    assert str(caught.value).endswith("; fetch it again")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_row_and_another_kind_of_error_can_be_named() -> None:
    with pytest.raises(ModelError, match=r"cannot read a.jsonl: row 7: it is nested too deeply"):
        with reading("a.jsonl", error_type=ModelError, row=7):
            json.loads("[" * 100_000)


def test_a_sentence_of_our_own_and_an_interrupt_pass_through() -> None:
    with pytest.raises(ModelError, match=r"^no B matrix$"), reading("x"):
        raise ModelError("no B matrix")
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt


def test_a_panic_of_a_rust_library_is_a_sentence() -> None:
    from tokenizers import Tokenizer

    class PanicException(BaseException):
        """Named as pyo3 names it; it does not derive from Exception."""

    with pytest.raises(DataError, match="index out of bounds"), reading("tokenizer.json"):
        raise PanicException("index out of bounds")
    with pytest.raises(DataError, match=r"tokenizer\.json"), reading("tokenizer.json"):
        Tokenizer.from_str("{}")


def test_a_message_can_always_be_printed() -> None:
    assert printable("a\ud83db") == "a\\ud83db"
    with pytest.raises(DataError) as caught, reading("x"):
        raise ValueError("cut \ud83d")
    str(caught.value).encode()
