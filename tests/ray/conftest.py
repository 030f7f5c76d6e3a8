"""A Ray cluster of two workers on this machine. Run by `make test-ray`, which installs Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.study.ray import RayExecutor

# What is mapped must be importable, here and by workers.
TOOLS = str(Path(__file__).parent)
sys.path.insert(0, TOOLS)

if find_spec("ray") is None:
    # Not collected where Ray is not installed; `make test-ray` fails where nothing is collected.
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    """Two workers; Ray starts with the first map."""
    made = RayExecutor(device="cpu", workers=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", TOOLS, prepend=os.pathsep)
        yield made
        made.close()
