"""A folder that is replaced as a whole: a reader never meets half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import StorageError


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`. It takes that one's place when the block ends, and is removed if the block fails.

    Raises:
        StorageError: nothing can be written beside `folder`.
    """
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise StorageError(f"cannot write beside {folder}: {error.strerror or error}; choose another folder") from error
    try:
        fresh, old = work / "new", work / "old"
        fresh.mkdir()  # unlike the work folder, it has the usual permissions
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
