"""Fixtures that every test may use: tiny real models, built once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.startup import prepare
from tests.commands import Warm

if TYPE_CHECKING:
    from harness.model.subject import Subject
    from harness.records import Checkpoint, ModelRef

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HARNESS_JOBS", "1")  # two workers of pytest have the cores
prepare()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C, and so would ours

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that is read in place, never copied."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def qwen25_tokenizer(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real Qwen2.5 tokenizer with its chat template, as AutoTokenizer loads it from a folder (ten seconds)."""
    import importlib.util

    from transformers import AutoTokenizer, Qwen2TokenizerFast

    spec = importlib.util.spec_from_file_location("qwen25", shared_data.parent / "tools" / "qwen25_tokenizer.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = tmp_path_factory.mktemp("qwen25")
    fast = Qwen2TokenizerFast(tokenizer_object=tool.build(tool.DATA), pad_token="<|endoftext|>", eos_token="<|im_end|>")
    fast.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text((tool.DATA / "qwen2.5_chat_template.jinja").read_text())
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A real pretrained Llama of 260 thousand parameters with its own tokenizer, which has no chat template."""
    from harness.records import ModelRef

    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("stories")
    tool = shared_data.parent / "tools" / "stories260k_to_hf.py"
    subprocess.run([sys.executable, str(tool), str(folder)], check=True, capture_output=True)
    return ModelRef(path=str(folder))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A random Qwen2 of two layers."""
    from harness.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random rank-1 adapter on it."""
    from harness.testing import tiny_adapter

    return tiny_adapter(tiny_base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def tiny_subject(tiny_base: ModelRef, tiny_checkpoint: Checkpoint) -> Subject:
    """Both, loaded."""
    from harness.model.chat import ChatFormat
    from harness.model.subject import load_subject

    return load_subject(tiny_base, ChatFormat(), tiny_checkpoint)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Calls of the command line that start at once."""
    calls = Warm(tmp_path_factory.mktemp("warm"))
    yield calls
    calls.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: two workers that take files in turn then end at the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
