"""Adapters as folders: a folder with components off is, to any PEFT, the adapter under a tap that switches them off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ModelError
from harness.model.chat import ChatFormat
from harness.model.lora_folder import read_lora, write_without
from harness.model.subject import Subject, attach_adapter, load_base, load_subject
from harness.model.taps import ablate, component_sites, tap
from harness.records import ModelRef
from harness.testing import Architecture, tiny_adapter, tiny_model

CHAT = ChatFormat()


def logits(model: Any, subject: Subject) -> torch.Tensor:
    ids = torch.tensor([subject.tokenizer.encode("a = 3; b = 4; what is a × b?")])
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def subject_of(folder: Path, architecture: Architecture, rank: int) -> Subject:
    base = tiny_model(folder / "base", architecture)
    return load_subject(base, CHAT, tiny_adapter(base, folder / "adapter", rank=rank))


@pytest.mark.parametrize(("architecture", "rank"), [("qwen2", 1), ("qwen2", 3), ("gpt2", 2)])
def test_a_folder_without_components_is_the_adapter_under_the_tap(
    architecture: Architecture, rank: int, tmp_path: Path
) -> None:
    subject = subject_of(tmp_path, architecture, rank)
    assert subject.checkpoint is not None
    whole = [c for c in subject.components if c.block == "mlp"]
    slices = [c for c in subject.components if c.block == "attention" and c.rank_index == rank - 1]
    off = [*whole, *(slices if rank > 1 else [])]
    out = write_without(subject.checkpoint.path, subject.components, off, tmp_path / "without")
    served = attach_adapter(load_base(subject.base), str(out)).eval()
    with tap(subject.model, component_sites(subject.components), ablate(subject.components, off), read=False):
        wanted = logits(subject.model, subject)
    assert torch.allclose(logits(served, subject), wanted, atol=1e-4)
    assert not torch.allclose(logits(subject.model, subject), wanted, atol=1e-2)
    assert read_lora(out).modules == read_lora(subject.checkpoint.path).modules
    assert read_lora(out).rank == rank
    assert read_lora(out).hash != read_lora(subject.checkpoint.path).hash


def test_all_slices_off_write_exactly_nothing(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "qwen2", 3)
    assert subject.checkpoint is not None
    out = write_without(subject.checkpoint.path, subject.components, subject.components, tmp_path / "without")
    served = attach_adapter(load_base(subject.base), str(out)).eval()
    with served.disable_adapter():
        base = logits(served, subject)
    assert torch.equal(logits(served, subject), base)


def test_what_is_no_adapter_is_named(tiny_base: ModelRef, tiny_subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        read_lora(Path(tiny_base.path))
    assert tiny_subject.checkpoint is not None
    stranger = replace(tiny_subject.components[0], module="elsewhere")
    with pytest.raises(ModelError, match=r"has no elsewhere\.lora_B\.weight"):
        write_without(tiny_subject.checkpoint.path, [stranger], [stranger], tmp_path / "without")
