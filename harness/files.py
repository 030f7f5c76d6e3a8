"""Read files: one context manager turns what any library raises about a file into a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from harness.errors import DataError, HarnessError

_DAMAGED = {"BadGzipFile", "BadZipFile", "EOFError", "error", "SafetensorError", "UnpicklingError"}
"""Exceptions that mean a file was cut off or changed (`zlib.error` and `struct.error` are called `error`)."""
_CURE = "check that the file is whole, or write it again"


@contextmanager
def reading(
    path: Path | str, cure: str = _CURE, *, error_type: type[HarnessError] = DataError, row: int | None = None
) -> Iterator[None]:
    """Read `path` inside the block. The original exception stays the cause of the error raised.

    Every exception is translated, not a list of them: a damaged file can make a parser raise anything.

    Args:
        path: the file or folder, as the message is to name it.
        cure: what the user can do.
        error_type: the kind of error that is raised.
        row: the row that is read, counted from 1.

    Raises:
        HarnessError: an `error_type` for any exception raised inside; a HarnessError passes through unchanged.
    """
    try:
        yield
    except HarnessError:
        raise
    except BaseException as error:
        # Libraries written in Rust (tokenizers, safetensors) panic with a BaseException of this name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        place = str(path) if row is None else f"{path}: row {row}"
        raise error_type(printable(f"cannot read {place}: {reason_of(error)}; {cure}")) from error


def reason_of(error: BaseException) -> str:
    """Why a file cannot be read, as one clause: at most 300 characters of the library's own words."""
    name = type(error).__name__
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, UnicodeDecodeError):
        guess = "; perhaps Latin-1 or Windows-1252" if error.encoding == "utf-8" else ""
        return f"it is not {error.encoding.upper()} (byte 0x{error.object[error.start]:02x}{guess}): save it as UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a surrogate pair, such as an emoji cut in two"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"field {'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if name in _DAMAGED:
        return f"it is cut off or damaged ({first_line or name})"
    if name == "JSONDecodeError":
        return f"it is not JSON ({first_line})"
    if isinstance(error, KeyError):
        return f"it has no {first_line}"
    return first_line.rstrip(".;") or name


def printable(text: str) -> str:
    """The text with what UTF-8 cannot encode (halves of surrogate pairs) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def half_pair(text: str) -> str | None:
    """The first half of a surrogate pair in a text, escaped; None where there is none.

    JSON can spell such a half, as of an emoji that was cut in two. It cannot be encoded, tokenised or stored.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return ascii(error.object[error.start])
    return None
