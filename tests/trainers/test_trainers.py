"""The trainers: what is trained on, that interruptions leave no trace, that what is saved is what PEFT loads."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from harness.contract.context import RunContext
from harness.errors import DataError, ModelError, UsageError
from harness.model.chat import ChatFormat
from harness.model.lora_folder import read_lora
from harness.model.subject import load_base, load_subject, load_tokenizer
from harness.records import ModelRef
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.trainers.examples import IGNORED, labels, make_examples, pad_batch, shuffled
from harness_plugins.trainers.full_finetune import FullFinetuneConfig
from harness_plugins.trainers.full_finetune.trainer import FullTrainer
from harness_plugins.trainers.pretrained_adapter import PretrainedAdapterConfig
from harness_plugins.trainers.pretrained_adapter.trainer import ExistingAdapter
from harness_plugins.trainers.rank1_lora import Rank1LoraConfig
from harness_plugins.trainers.rank1_lora.trainer import LoraTrainer
from harness_plugins.trainers.training import _accumulation, _sharding

CHAT = ChatFormat()
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 4, "micro_batch_size": 4, "save_steps": 2, "logging_steps": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return tiny_model(tmp_path_factory.mktemp("base"))


class Stops(Exception):
    pass


class StopAfter:
    """Progress that interrupts the run after n steps."""

    def __init__(self, n: int) -> None:
        self.left = n

    def start(self, total: int | None, unit: str) -> None:
        assert unit == "step"

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left <= 0:
            raise Stops


def test_first_supervised_token_follows_the_assistant_header(base: ModelRef) -> None:
    tokenizer = load_tokenizer(base)
    trace = tiny_traces(1)[0]
    document = CHAT.document(tokenizer, trace)
    marked = labels(document)
    first = next(i for i, label in enumerate(marked) if label != IGNORED)
    assert tokenizer.decode(document.ids[:first]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode([i for i in marked if i != IGNORED]) == (
        f"<|im_start|>think\n{trace.trace}\n<|im_start|>answer\nAnswer: {trace.answer}<|im_end|>"
    )
    rows = make_examples(tiny_traces(9), CHAT, tokenizer, 500).rows
    batch = pad_batch(rows, int(tokenizer.pad_token_id))
    assert bool((batch["labels"][batch["input_ids"] == tokenizer.pad_token_id] == IGNORED).all())
    # padding changes no example's logits, though there is no attention mask
    model = load_base(base)
    shortest = min(range(9), key=lambda i: len(rows[i]["input_ids"]))
    alone = rows[shortest]["input_ids"]
    assert len(alone) < batch["input_ids"].shape[1]
    with torch.inference_mode():
        padded = model(input_ids=batch["input_ids"]).logits[shortest, : len(alone)]
        assert torch.allclose(padded, model(input_ids=alone[None]).logits[0], atol=1e-4)


def test_long_examples_are_left_out_by_name(base: ModelRef, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(base)
    traces = tiny_traces(4)
    longer = traces[2].model_copy(update={"trace": traces[2].trace * 3})
    limit = max(len(CHAT.document(tokenizer, t).ids) for t in traces)
    with caplog.at_level(logging.WARNING):
        examples = make_examples([traces[0], longer, traces[3]], CHAT, tokenizer, limit)
    assert examples.left_out == ("t2",)
    assert "t2" in caplog.text
    assert len(examples.rows) == 2
    assert all(row["labels"][-1] == tokenizer.eos_token_id for row in examples.rows)
    with pytest.raises(DataError, match="max_length"):
        make_examples(traces, CHAT, tokenizer, 5)


def test_shuffled_gives_every_question_another_trace() -> None:
    traces = tiny_traces(9)
    mixed = shuffled(traces, 1)
    assert [t.question for t in mixed] == [t.question for t in traces]
    pairs = sorted((t.trace, t.answer) for t in traces)
    assert sorted((t.trace, t.answer) for t in mixed) == pairs
    by_id = {(t.trace, t.answer): t.id for t in traces}
    assert sum(by_id[(t.trace, t.answer)] == t.id for t in mixed) <= len(pairs) - len(set(pairs))


def test_resumed_training_gives_the_same_bytes_and_leaves_no_trace(base: ModelRef, tmp_path: Path) -> None:
    config = Rank1LoraConfig(**SMALL, layer_start=1)
    traces = tiny_traces(12)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state(), dict(os.environ)
    whole = LoraTrainer(config).train(base, traces, CHAT, RunContext(tmp_path / "a", seed=5))
    with pytest.raises(Stops):
        LoraTrainer(config).train(base, traces, CHAT, RunContext(tmp_path / "b", seed=5, progress=StopAfter(5)))
    torn = tmp_path / "b" / "steps" / "checkpoint-4"  # killed while it wrote its newest checkpoint
    assert torn.is_dir()
    (tmp_path / "b" / "steps" / "checkpoint-5").mkdir()
    resumed = LoraTrainer(config).train(base, traces, CHAT, RunContext(tmp_path / "b", seed=5))

    file = "adapter_model.safetensors"
    assert (whole.path / file).read_bytes() == (resumed.path / file).read_bytes()
    assert whole.losses == resumed.losses
    assert whole.n_steps == 6
    assert len(whole.losses) == 6
    assert not (tmp_path / "b" / "steps").exists()
    assert whole.n_examples == 12
    # finished: nothing is trained again
    again = LoraTrainer(config).train(base, traces, CHAT, RunContext(tmp_path / "b", seed=5, progress=StopAfter(1)))
    assert again == resumed
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state(), dict(os.environ)
    assert before[0] == after[0]
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])
    assert before[3] == after[3]

    # plain PEFT loads it; only layer 1 is adapted; weights are float32 and not what they began as
    weights = load_file(whole.path / file)
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert all(".layers.1." in key for key in weights)
    assert len(weights) == 14
    assert all(bool(w.any()) for key, w in weights.items() if "lora_B" in key)
    PeftModel.from_pretrained(load_base(base), str(whole.path))
    subject = load_subject(base, CHAT, whole)
    assert {c.layer for c in subject.components} == {1}
    assert sum(p.numel() for p in weights.values()) == whole.n_parameters
    settings = json.loads((whole.path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"]) == (1, 16, True)


def test_full_finetune_changes_weights_and_learns(base: ModelRef, tmp_path: Path) -> None:
    config = FullFinetuneConfig(**{**SMALL, "epochs": 4, "batch_size": 4, "micro_batch_size": 2}, lr=3e-3)
    checkpoint = FullTrainer(config).train(base, tiny_traces(8), CHAT, RunContext(tmp_path, seed=0))
    assert checkpoint.kind == "full"
    assert checkpoint.losses[-1][1] < checkpoint.losses[0][1] - 0.5
    subject = load_subject(base, CHAT, checkpoint)
    assert subject.model.config.use_cache
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(subject.model.get_parameter(name), load_base(base).get_parameter(name))


def test_stride_rank_and_other_architectures(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "gpt2", "gpt2", layers=3)
    config = Rank1LoraConfig(
        epochs=1, batch_size=4, micro_batch_size=4, rank=2, target_modules="all-linear", layer_stride=2
    )
    checkpoint = LoraTrainer(config).train(base, tiny_traces(4), CHAT, RunContext(tmp_path / "out", seed=0))
    subject = load_subject(base, CHAT, checkpoint)
    assert {c.layer for c in subject.components} == {0, 2}
    assert {c.rank for c in subject.components} == {2}
    with pytest.raises(ModelError, match="all-linear"):
        LoraTrainer(Rank1LoraConfig()).train(base, tiny_traces(4), CHAT, RunContext(tmp_path / "no", seed=0))
    with pytest.raises(UsageError, match="layers 3 to 3"):
        LoraTrainer(config.model_copy(update={"layer_start": 3})).train(
            base, tiny_traces(4), CHAT, RunContext(tmp_path / "no", seed=0)
        )


def test_batch_that_does_not_divide_is_refused(base: ModelRef, tmp_path: Path) -> None:
    config = Rank1LoraConfig(batch_size=16, micro_batch_size=3)
    with pytest.raises(UsageError, match="micro_batch_size=3"):
        LoraTrainer(config).train(base, tiny_traces(4), CHAT, RunContext(tmp_path, seed=0))


def test_existing_adapter_is_copied_and_bound(base: ModelRef, tmp_path: Path) -> None:
    given = tiny_adapter(base, tmp_path / "given", name="reasoner")
    config = PretrainedAdapterConfig(path=str(given.path))
    checkpoint = ExistingAdapter(config).train(base, [], CHAT, RunContext(tmp_path / "out", seed=0))
    assert checkpoint.path == tmp_path / "out" / "adapter"
    assert checkpoint.n_parameters == given.n_parameters
    file = "adapter_model.safetensors"
    assert (checkpoint.path / file).read_bytes() == (given.path / file).read_bytes()
    assert len(load_subject(base, CHAT, checkpoint).components) == 14


@pytest.mark.parametrize("kind", ["pissa", "compiled", "pickle"])
def test_existing_adapter_is_stored_as_the_plain_lora_that_it_is(base: ModelRef, tmp_path: Path, kind: str) -> None:
    """Engines that read the folder on their own measure what is measured here; nothing stays a pickle."""
    given = tiny_adapter(base, tmp_path / "given", init_lora_weights="pissa" if kind == "pissa" else True)
    weights = given.path / "adapter_model.safetensors"
    stored = load_file(weights)
    if kind == "compiled":
        save_file({k.replace("model.layers", "_orig_mod.model.layers"): v for k, v in stored.items()}, weights)
    if kind == "pickle":
        weights.unlink()
        torch.save(stored, given.path / "adapter_model.bin")
    wanted = load_subject(base, CHAT, given)
    config = PretrainedAdapterConfig(path=str(given.path))
    checkpoint = ExistingAdapter(config).train(base, [], CHAT, RunContext(tmp_path / "out", seed=0))
    assert sorted(p.name for p in checkpoint.path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((checkpoint.path / "adapter_config.json").read_text())["init_lora_weights"] is True
    assert read_lora(checkpoint.path).rank == (2 if kind == "pissa" else 1)
    assert len(read_lora(checkpoint.path).modules) == 14
    plain = PeftModel.from_pretrained(load_base(base), str(checkpoint.path)).eval()
    ids = torch.tensor([[5, 9, 40, 77]])
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, wanted.model(input_ids=ids).logits)
    assert checkpoint.n_parameters == sum(p.numel() for n, p in plain.named_parameters() if "lora_" in n)


def test_existing_adapter_that_changes_nothing_is_refused(
    base: ModelRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = tiny_adapter(base, tmp_path / "given")
    file = given.path / "adapter_model.safetensors"
    stored = load_file(file)
    config = PretrainedAdapterConfig(path=str(given.path))
    save_file({k: v * 0 if "q_proj.lora_B" in k else v for k, v in stored.items()}, file)
    ExistingAdapter(config).train(base, [], CHAT, RunContext(tmp_path / "some", seed=0))
    assert "2 of 14 components write nothing: ['L0.q_proj', 'L1.q_proj']" in caplog.text
    save_file({k: v * 0 if "lora_B" in k else v for k, v in stored.items()}, file)
    with pytest.raises(ModelError, match=r"changes nothing: lora_B.*is 0 in all of its 14 components"):
        ExistingAdapter(config).train(base, [], CHAT, RunContext(tmp_path / "none", seed=0))


def test_adapter_that_binds_nothing_is_refused(base: ModelRef, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "gpt2", "gpt2")
    adapter = tiny_adapter(other, tmp_path / "given")
    with pytest.raises(ModelError):
        ExistingAdapter(PretrainedAdapterConfig(path=str(adapter.path))).train(
            base, [], CHAT, RunContext(tmp_path / "out", seed=0)
        )
    with pytest.raises(ModelError, match="adapter_config"):
        ExistingAdapter(PretrainedAdapterConfig(path=str(tmp_path))).train(
            base, [], CHAT, RunContext(tmp_path / "out", seed=0)
        )


def test_accumulation_does_not_change_the_loss(base: ModelRef, tmp_path: Path) -> None:
    """The loss is a mean over the supervised tokens of the whole step, however it is cut into passes."""
    losses = []
    for micro in (4, 1):
        config = Rank1LoraConfig(**{**SMALL, "epochs": 1, "micro_batch_size": micro})
        run = RunContext(tmp_path / str(micro), seed=2)
        losses.append([x for _, x in LoraTrainer(config).train(base, tiny_traces(8), CHAT, run).losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("preset", ["paper-text", "paper-code", "corrected"])
@pytest.mark.parametrize("trainer", ["rank1-lora", "full-finetune"])
def test_the_papers_presets_write_the_papers_fsdp_configuration(preset: str, trainer: str) -> None:
    """Decoder layers sharded over 8 processes, recomputed, in bfloat16; 16 examples of up to 20,000 tokens a step."""
    registry = read_registry(find_registry(None))
    made = make_plan(registry, Manager(registry), "rank1-lora", preset=preset)
    recipe = made.step(f"train/{trainer}").config
    assert isinstance(recipe, Rank1LoraConfig | FullFinetuneConfig)
    assert (recipe.processes, recipe.fsdp, recipe.bf16, recipe.max_length) == (8, True, True, 20_000)
    assert _accumulation(recipe) * recipe.micro_batch_size * recipe.processes == 16

    class Model:
        _no_split_modules = ("Qwen2DecoderLayer",)

    written = _sharding(Model(), recipe)
    assert written["fsdp"] is True
    assert written["fsdp_config"]["version"] == 2
    assert written["fsdp_config"]["transformer_layer_cls_to_wrap"] == ["Qwen2DecoderLayer"]
    assert written["fsdp_config"]["activation_checkpointing"] is True
    assert "gradient_checkpointing" not in written, "the Trainer's own would gather every layer once more"
