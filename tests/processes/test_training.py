"""Training in several processes: the single process's losses and weights, sharded or not; clean failure and resume."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from harness.contract.context import RunContext
from harness.errors import DataError, HarnessError, UsageError
from harness.model.chat import ChatFormat
from harness.model.subject import load_base
from harness.records import Checkpoint, ModelRef
from harness.testing import tiny_model, tiny_traces
from harness_plugins.trainers.full_finetune import FullFinetuneConfig
from harness_plugins.trainers.full_finetune.trainer import FullTrainer
from harness_plugins.trainers.rank1_lora import Rank1LoraConfig
from harness_plugins.trainers.rank1_lora.trainer import LoraTrainer

CHAT = ChatFormat()
TRACES = tiny_traces(16)
COMMON: dict[str, Any] = {"epochs": 2, "batch_size": 8, "logging_steps": 1, "save_steps": 2, "lr": 1e-2}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return tiny_model(tmp_path_factory.mktemp("base"))


class Watched:
    """Progress that counts; it interrupts after n steps, if asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.total, self.done, self.stop_after = 0, 0, stop_after

    def start(self, total: int | None, unit: str) -> None:
        self.total = total or 0

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.stop_after is not None and self.done >= self.stop_after:
            raise KeyboardInterrupt


def train(kind: str, base: ModelRef, folder: Path, progress: Any = None, **recipe: Any) -> Checkpoint:
    run = RunContext(folder, seed=3, progress=progress or Watched())
    settings = {**COMMON, **recipe}
    if kind == "adapter":
        return LoraTrainer(Rank1LoraConfig(**settings)).train(base, TRACES, CHAT, run)
    return FullTrainer(FullFinetuneConfig(**settings)).train(base, TRACES, CHAT, run)


def losses(checkpoint: Checkpoint) -> list[float]:
    return [loss for _, loss in checkpoint.losses]


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_two_processes_give_the_single_ones_losses_and_weights(kind: str, base: ModelRef, tmp_path: Path) -> None:
    alone = train(kind, base, tmp_path / "alone", micro_batch_size=8)
    watched = Watched()
    sharded = train(
        kind, base, tmp_path / "sharded", watched,
        micro_batch_size=2, processes=2, fsdp=True, gradient_checkpointing=True,
    )  # fmt: skip
    assert (watched.done, watched.total) == (4, 4)
    copies = [train(kind, base, tmp_path / "copies", micro_batch_size=4, processes=2)] if kind == "adapter" else []
    for other in (sharded, *copies):
        assert losses(other) == pytest.approx(losses(alone), abs=1e-4)
        assert (other.n_parameters, other.n_steps, other.chat_hash) == (
            alone.n_parameters, alone.n_steps, alone.chat_hash,
        )  # fmt: skip
        name = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
        ours, theirs = load_file(other.path / name), load_file(alone.path / name)
        assert ours.keys() == theirs.keys()
        # Adam divides by the root of tiny second moments: rounding differences of 1e-7 in gradients grow to 1e-4.
        assert all(torch.allclose(ours[k], theirs[k], atol=2e-3) for k in ours)
        assert {t.dtype for t in ours.values()} == {torch.float32}
        assert sorted(p.name for p in other.path.parent.iterdir()) == sorted([other.path.name, "job.json"])
    if kind == "adapter":
        model = PeftModel.from_pretrained(load_base(base), str(sharded.path))
        assert sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) == sharded.n_parameters
    else:
        assert json.loads((sharded.path / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
        assert AutoModelForCausalLM.from_pretrained(sharded.path).num_parameters() == sharded.n_parameters


def test_shards_compute_in_bfloat16_and_keep_float32(base: ModelRef, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: losses of some 6 nats agree to 1 %; another batch or another step would not."""
    alone = train("adapter", base, tmp_path / "alone", micro_batch_size=8, bf16=True)
    exact = train("adapter", base, tmp_path / "exact", micro_batch_size=8)
    sharded = train(
        "adapter", base, tmp_path / "sharded",
        micro_batch_size=2, processes=2, fsdp=True, gradient_checkpointing=True, bf16=True,
    )  # fmt: skip
    assert losses(sharded) == pytest.approx(losses(alone), rel=1e-2)
    for made in (alone, sharded):
        assert losses(made) != losses(exact), "it did compute in bfloat16"
        kept = load_file(made.path / "adapter_model.safetensors")
        assert {t.dtype for t in kept.values()} == {torch.float32}
        # not bfloat16 values in float32: their low bits are there
        assert any(not torch.equal(t, t.bfloat16().float()) for t in kept.values())


def test_an_interrupt_ends_all_processes_and_the_training_goes_on(base: ModelRef, tmp_path: Path) -> None:
    spread: dict[str, Any] = {"micro_batch_size": 4, "processes": 2, "epochs": 6}
    whole = train("adapter", base, tmp_path / "whole", **spread)
    with pytest.raises(KeyboardInterrupt):
        train("adapter", base, tmp_path / "cut", Watched(stop_after=5), **spread)
    assert not _children(), "no process is left behind"
    resumed = train("adapter", base, tmp_path / "cut", **spread)
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    name = "adapter_model.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_workers_error_is_the_trainings_error(base: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_length"):
        train("adapter", base, tmp_path, micro_batch_size=4, processes=2, max_length=5)


def test_a_killed_worker_is_named_with_its_log(base: ModelRef, tmp_path: Path) -> None:
    class Kills(Watched):
        def advance(self, n: int = 1) -> None:
            super().advance(n)
            for pid in _children():
                if "trainers.worker" in Path(f"/proc/{pid}/cmdline").read_text() and "RANK" in _environment(pid):
                    os.kill(pid, signal.SIGKILL)

    with pytest.raises(HarnessError, match=r"training process ended with .*processes\.log"):
        train("adapter", base, tmp_path, Kills(), micro_batch_size=4, processes=2, epochs=50)


def _environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def test_batches_that_do_not_divide_are_refused(base: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batch_size=8 .* times 3 process"):
        train("adapter", base, tmp_path, micro_batch_size=4, processes=3)
    with pytest.raises(ValidationError, match="set processes"):
        Rank1LoraConfig(fsdp=True)


def _children() -> list[int]:
    """Processes that this one started, and theirs."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(status.parent.name)] = int(fields[1])
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        here = todo.pop()
        below = [pid for pid, parent in parents.items() if parent == here]
        found += below
        todo += below
    return found
