"""Running a decoder from one of its blocks on: the bits of a whole pass, or a reason why that cannot be."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ModelError
from harness.model.blocks import Blocks
from harness.model.chat import ChatFormat
from harness.model.subject import load_base, load_subject
from harness.testing import Architecture, tiny_adapter, tiny_model

INPUTS = {
    "input_ids": torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3]),
}


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2", "gemma", "mistral", "phi3"])
def test_every_start_gives_the_bits_of_a_whole_pass(tmp_path: Path, architecture: Architecture) -> None:
    blocks = Blocks(load_base(tiny_model(tmp_path, architecture, layers=3)))
    assert blocks.n == 3
    assert blocks.prefix_reuse_error(INPUTS) is None
    with torch.no_grad():
        whole, hidden = blocks.run(INPUTS), blocks.entering(INPUTS)
        for block in range(3):
            assert torch.equal(blocks.run(INPUTS, block, hidden), whole)
            hidden = blocks.step(INPUTS, block, hidden)


def test_the_blocks_that_are_left_out_do_not_run_and_are_put_back(tmp_path: Path) -> None:
    model = load_base(tiny_model(tmp_path, layers=3))
    blocks = Blocks(model)
    ran: list[int] = []
    layers: Any = model.base_model.layers
    for i, layer in enumerate(layers):
        layer.mlp.register_forward_hook(lambda _, __, ___, i=i: ran.append(i))
    with torch.no_grad():
        hidden = blocks.step(INPUTS, 1, blocks.entering(INPUTS))
        assert ran == [1]
        blocks.run(INPUTS, 2, hidden)
        assert ran == [1, 2]
        with pytest.raises(RuntimeError):
            blocks.run({"input_ids": INPUTS["input_ids"].float()}, 2, hidden)
        blocks.run(INPUTS)
    assert ran == [1, 2, 0, 1, 2]
    assert all("forward" not in layer.__dict__ for layer in layers)


def test_a_start_needs_what_enters_it(tmp_path: Path) -> None:
    blocks = Blocks(load_base(tiny_model(tmp_path)))
    with pytest.raises(ModelError, match="begins at block 1 needs"):
        blocks.run(INPUTS, 1)


@contextmanager
def state_shared_across_blocks(backbone: Any) -> Iterator[None]:
    """Block 1 adds what block 0 left in a place of this pass, as architectures with shared keys and values do."""
    shared: dict[str, torch.Tensor] = {}
    first, second = backbone.layers[0], backbone.layers[1]
    handles = [
        backbone.register_forward_pre_hook(lambda *_: shared.clear()),
        first.mlp.register_forward_hook(lambda _, __, out: shared.update(left=out)),
        second.mlp.register_forward_hook(lambda _, __, out: out + shared["left"]),
    ]
    yield
    for handle in handles:
        handle.remove()


def test_blocks_that_share_state_are_found_out_and_run_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from harness.contract.context import RunContext
    from harness.testing import tiny_traces
    from harness_plugins.ablations.cells import Cell
    from harness_plugins.ablations.config import KLConfig
    from harness_plugins.ablations.divergence import Divergence
    from harness_plugins.ablations.documents import read_texts
    from harness_plugins.ablations.leave_one_out import LeaveOneOutConfig
    from harness_plugins.ablations.leave_one_out.ablation import LeaveOneOut

    base = tiny_model(tmp_path / "base")
    subject = load_subject(base, ChatFormat(), tiny_adapter(base, tmp_path / "adapter"))
    config = KLConfig(n_documents=2)
    texts = read_texts(subject, tiny_traces(2), config, torch.Generator())
    with state_shared_across_blocks(Blocks(subject.model).backbone):
        assert "KeyError" in str(Blocks(subject.model).prefix_reuse_error(INPUTS))
        ours = Divergence(subject, texts, config, seed=0)
        assert "KeyError" in str(ours.prefix_reuse_error)
        assert ours.engine == "whole passes, modules, float32"
        last = [c for c in subject.components if c.layer == 1][:1]
        ((_, sums),) = ours.sweep([Cell("last", "component", tuple(last))])
        plugin = LeaveOneOut(LeaveOneOutConfig(n_documents=2, scopes=("adapter",), probes=0))
        with caplog.at_level(logging.WARNING):
            list(plugin.measure(subject, tiny_traces(2), RunContext(tmp_path, seed=0)))
        assert "ablations run whole passes: a pass that leaves blocks out fails (KeyError" in caplog.text
    assert sums.kl_nats.sum() > 0
    assert ours.floors_nats == {}
