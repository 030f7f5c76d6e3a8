"""Read files, with a sentence for whatever a library raises about them; write files and folders whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from pydantic import ValidationError

from harness.errors import DataError, HarnessError, StorageError

_DAMAGED = {"BadGzipFile", "BadZipFile", "EOFError", "error", "SafetensorError", "UnpicklingError"}
"""Exceptions that mean a file was cut off or changed (`zlib.error` and `struct.error` are called `error`)."""
_LOCK = "lock"
"""File in a work folder that its process holds: free once the process is dead."""
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


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> str:
    """Write a file under a temporary name, then rename it. Returns its sha256.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        sha = sha256_of(partial)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space or change the folder"
        ) from error
    return sha


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`. It takes that one's place when the block ends, and is removed if the block fails.

    Folders of earlier calls that were killed are removed first: their locks are free.

    Raises:
        StorageError: nothing can be written beside `folder`.
    """
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise StorageError(f"cannot write beside {folder}: {error.strerror or error}; choose another folder") from error
    lock = FileLock(work / _LOCK)
    lock.acquire()
    try:
        fresh, old = work / "new", work / "old"
        fresh.mkdir()  # unlike the work folder, it has the usual permissions
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _sweep(folder: Path) -> None:
    for lock_file in folder.parent.glob(f".{glob.escape(folder.name)}-*/{_LOCK}"):
        lock = FileLock(lock_file)
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(lock_file.parent, ignore_errors=True)
        except Timeout:
            continue  # another process is writing there
