"""Fixtures that every test may use: tiny real models, built once."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from harness.startup import prepare
from tests.commands import Warm, command_environment
from tests.once import once

if TYPE_CHECKING:
    from harness.records import ModelRef

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HARNESS_JOBS", "1")  # two workers of pytest have the cores
prepare()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C, and so would ours

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Makers of plausible records (tests/store/synthetic.py)."""
    from tests.store import synthetic as makers

    return makers


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that is read in place, never copied."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED / "data"


def shared_tool(shared_data: Path, name: str) -> Any:
    """A script of the shared folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, shared_data.parent / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture(scope="session")
def qwen25_tokenizer(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real Qwen2.5 tokenizer with its chat template, as AutoTokenizer loads it from a folder (ten seconds)."""
    from transformers import AutoTokenizer, Qwen2TokenizerFast

    def build(folder: Path) -> None:
        tool = shared_tool(shared_data, "qwen25_tokenizer")
        ends = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
        Qwen2TokenizerFast(tokenizer_object=tool.build(tool.DATA), **ends).save_pretrained(folder)
        (folder / "chat_template.jinja").write_text((tool.DATA / "qwen2.5_chat_template.jinja").read_text())

    return AutoTokenizer.from_pretrained(once(tmp_path_factory, "qwen25", build))


@pytest.fixture(scope="session")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A real pretrained Llama of 260 thousand parameters with its own tokenizer, which has no chat template."""
    from harness.records import ModelRef

    pytest.importorskip("sentencepiece")

    def build(folder: Path) -> None:
        with mock.patch.object(sys, "argv", ["stories260k_to_hf", str(folder)]):
            shared_tool(shared_data, "stories260k_to_hf").main()

    return ModelRef(path=str(once(tmp_path_factory, "stories", build)))


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study has run at its `tiny` preset, uninterrupted, in a fresh process. Copy it to write."""

    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "harness.cli", "run", "--plugin", "rank1-lora", "--preset", "tiny"]
        done = subprocess.run(
            [*command, "--device", "cpu"], cwd=folder, env=command_environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "tiny-study", build)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Calls of the command line that start at once."""
    calls = Warm(tmp_path_factory.mktemp("warm"))
    yield calls
    calls.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file comes first, then those with slow tests: two workers that take files in turn end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    longest = Path(__file__).with_name("test_study.py")
    items.sort(key=lambda item: (item.path != longest, item.path not in slow))
