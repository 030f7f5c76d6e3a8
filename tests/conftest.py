"""Fixtures that every test may use: tiny real models, built once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.records import Checkpoint, ModelRef
from harness.testing import tiny_adapter, tiny_model

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that is read in place, never copied."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A random Qwen2 of two layers."""
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random rank-1 adapter on it."""
    return tiny_adapter(tiny_base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def tiny_subject(tiny_base: ModelRef, tiny_checkpoint: Checkpoint) -> Subject:
    """Both, loaded."""
    return load_subject(tiny_base, ChatFormat(), tiny_checkpoint)
