"""Fixtures of pytest, there wherever the harness is installed: a tiny adapted model, a scripted LLM, a RunContext."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.contract.context import RunContext
    from harness.contract.provider import Provider
    from harness.model.subject import Subject
    from harness.records import Checkpoint, ModelRef


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A random Qwen2 of two layers."""
    from harness.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random rank-1 adapter on `tiny_base`."""
    from harness.testing import tiny_adapter

    return tiny_adapter(tiny_base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def tiny_subject(tiny_base: ModelRef, tiny_checkpoint: Checkpoint) -> Subject:
    """`tiny_base` with `tiny_checkpoint`, loaded anew for each test."""
    from harness.model.chat import ChatFormat
    from harness.model.subject import load_subject

    return load_subject(tiny_base, ChatFormat(), tiny_checkpoint)


@pytest.fixture
def scripted_provider() -> Callable[..., Provider]:
    """`scripted_provider(rules={TEXT IN THE PROMPT: REPLY}, replies=(...))`: an LLM that answers by rule."""
    from importlib.resources import files

    from harness.study.manager import Manager
    from harness.study.registry import read_registry

    manager = Manager(read_registry(Path(str(files("harness").joinpath("registry.yaml")))))

    def make(**settings: Any) -> Provider:
        provider: Provider = manager.implementation("scripted", manager.config("scripted", settings))
        return provider

    return make


@pytest.fixture
def run_context(tmp_path: Path) -> Callable[..., RunContext]:
    """`run_context(provider=..., **fields)`: a RunContext of seed 0 in a fresh folder, one LLM for all roles."""
    from harness.contract.context import RunContext
    from harness.testing import MemoryCalls

    n = 0

    def make(*, provider: Provider | None = None, **fields: Any) -> RunContext:
        nonlocal n
        n += 1
        if provider is not None:
            fields = {"calls": MemoryCalls(), "provider": lambda role: (provider, provider.config.model), **fields}
        return RunContext(**{"out_dir": tmp_path / f"run{n}", "seed": 0, **fields})

    return make
