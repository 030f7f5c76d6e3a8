"""A folder that is replaced as a whole: a reader never meets half of one."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import StorageError

_LOCK = "lock"
"""File in a work folder that its process holds: free once the process is dead."""


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
