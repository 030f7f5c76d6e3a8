"""Mutated adapter folders end in an adapter or in one sentence, never in a library's exception."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import ModelError
from harness.model.attach import attach_adapter
from harness.model.components import find_components
from harness.model.lora_folder import load_lora, read_lora
from harness.model.subject import load_base
from harness.records import ModelRef
from harness.testing import tiny_adapter
from tests.mutations import mutated

N_FOLDERS = 1_000
FIELDS = {
    "init_lora_weights": "pissa", "layer_replication": [[0, 1], [0, 2]], "use_dora": True, "bias": "all", "r": 10**9,
    "peft_type": "IA3", "task_type": "SEQ_CLS", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": "x"},
    "target_modules": "all-linear", "exclude_modules": "(", "layers_to_transform": [7], "modules_to_save": ["lm_head"],
}  # fmt: skip


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
def test_mutated_adapters_end_in_a_sentence(tiny_base: ModelRef, tmp_path: Path, form: str) -> None:
    """A quarter of them are also attached: building a PEFT model costs ten times what reading one does."""
    good = tiny_adapter(tiny_base, tmp_path / "good", target_modules=["q_proj", "up_proj"]).path
    (good / "README.md").unlink(missing_ok=True)
    if form == "pickle":
        torch.save(load_file(good / "adapter_model.safetensors"), good / "adapter_model.bin")
        (good / "adapter_model.safetensors").unlink()
    rng, base = random.Random(form), load_base(tiny_base)
    sentences, attached = set(), 0
    for i in range(N_FOLDERS // 2):
        folder = mutated(good, tmp_path / "bad", rng, FIELDS)
        try:
            load_lora(folder)
            read_lora(folder)
            if i % 4 == 0:
                adapted = attach_adapter(base, str(folder))
                find_components(adapted)
                attached += 1
        except ModelError as error:
            sentences.add(str(error))
            if i % 4 == 0:
                base = load_base(tiny_base)  # what failed half-way may have left its modules
        else:
            base = adapted.unload() if i % 4 == 0 else base
    assert not any("\n" in sentence for sentence in sentences)
    assert len({sentence.split(":")[-1][:40] for sentence in sentences}) > 10
    assert attached > 10
