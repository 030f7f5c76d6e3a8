"""What is refused before vLLM is asked, and what an engine must prove before it is. No vLLM here: `make test-vllm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks import engine as engines
from harness.benchmarks.engine import Engines, require_vllm
from harness.benchmarks.served import Served
from harness.contract.settings import EngineConfig
from harness.errors import ModelError, UsageError
from harness.model.chat import ChatFormat
from harness.model.lora_folder import read_lora
from harness.model.subject import load_tokenizer
from harness.records import Checkpoint, ModelRef

CHAT = ChatFormat()


class FakeEngine:
    """An engine that says what it is told to."""

    def __init__(self, n_bound: int, *, changed: bool = True) -> None:
        self.n_bound, self.changed = n_bound, changed
        self.fingerprint = "fake"

    def bind(self, adapter: Any) -> tuple[Any, int]:
        return adapter.hash, self.n_bound

    def read(self, texts: list[list[int]], adapter: Any, progress: Any) -> list[list[tuple[float, bool]]]:
        shift = 1.0 if adapter is not None and self.changed else 0.0
        return [[(-float(i) - shift, False) for i in ids] for ids in texts]


def served(engine: Any, checkpoint: Checkpoint, *, probe: bool = True) -> Served:
    return Served(engine, CHAT, "", load_tokenizer(checkpoint.base), read_lora(checkpoint.path), probe)


def test_an_adapter_must_be_bound_whole_and_change_what_is_read(tiny_checkpoint: Checkpoint) -> None:
    assert served(FakeEngine(14), tiny_checkpoint).check() == 14
    with pytest.raises(ModelError, match="has 14 modules and vLLM binds 13 of them"):
        served(FakeEngine(13), tiny_checkpoint).check()
    with pytest.raises(ModelError, match="binds 14 modules but does not change"):
        served(FakeEngine(14, changed=False), tiny_checkpoint).check()
    assert served(FakeEngine(14, changed=False), tiny_checkpoint, probe=False).check() == 14, "all is off"


def test_without_vllm_one_sentence_says_how_to_install_it(tiny_base: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    line = r"evaluate\.backend=vllm needs vLLM, which is not installed: pip install 'interp-harness\[vllm\]'"
    with pytest.raises(UsageError, match=line):
        Engines(EngineConfig()).get(tiny_base, tiny_base, 1)
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    require_vllm("evaluate.backend=vllm")


def test_gpus_are_shared_out_among_copies_and_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert engines._devices(EngineConfig(tensor_parallel_size=2, data_parallel_size=2)) == ["3,5", "6,7"]
    assert engines._devices(EngineConfig(tensor_parallel_size=4)) == [None]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert engines._devices(EngineConfig(data_parallel_size=3)) == ["0", "1", "2"]
    with pytest.raises(UsageError, match="data_parallel_size=2 need 8 GPUs, and this machine shows 4"):
        engines._devices(EngineConfig(tensor_parallel_size=4, data_parallel_size=2))


def test_a_failure_of_vllm_is_one_sentence(tmp_path: Path) -> None:
    fault = "1 validation error for ModelConfig\n  Value error, max_model_len (9) is greater than the model's\n"
    with (
        pytest.raises(ModelError, match=r"^vLLM cannot serve x: Value error, max_model_len .*max_model_len\)$"),
        engines._sentences("vLLM cannot serve x"),
    ):
        raise ValueError(fault)
